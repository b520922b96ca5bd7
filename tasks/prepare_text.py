"""Task: the dataset of a language model."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_table, show_version
from tasks.step import step
from ts4s_core.data.corpus.facts import CorpusFacts
from ts4s_core.pipeline.language_run import LanguageRun


@step("prepare")
def prepare_text() -> dict[str, Any]:
    """Tokenise the text and cut it into windows, on Spark."""
    run = current_run(LanguageRun)
    result = run.prepare_text()
    show_version(run, result)
    facts = CorpusFacts.of(result)
    counts = {"rows": facts.rows, "bytes": facts.bytes, "tokens": facts.tokens, "windows": facts.windows}
    rows = [{"side": side, **{name: count[side] for name, count in counts.items()}} for side in facts.rows]
    show_table("text", run.settings.name, rows, description="blocks, bytes, tokens and windows of each side")
    return result.to_json()
