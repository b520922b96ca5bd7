"""Task: the dataset artifact."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_table, show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.pipeline.classifier_run import ClassifierRun


@step("prepare")
def prepare_dataset(base: str) -> dict[str, Any]:
    """Split and tokenise the data, on Spark.

    Args:
        base: reference of the artifact whose tokenizer is used.
    """
    run = current_run(ClassifierRun)
    result = run.prepare(ArtifactRef.parse(base))
    show_version(run, result)
    rows = [{"side": side, "rows": count} for side, count in DatasetFacts.of(result).rows.items()]
    show_table("rows", run.settings.name, rows, description="rows of each side")
    return result.to_json()
