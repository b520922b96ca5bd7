"""Task: texts of a language model."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.language_run import LanguageRun


@step("generate")
def generate_text(trained: str, dataset: str) -> dict[str, Any]:
    """Write texts of a trained version.

    Args:
        trained: reference of the trained artifact.
        dataset: reference of the dataset, which a prompt is taken from if none is given.
    """
    run = current_run(LanguageRun)
    result = run.generate(ArtifactRef.parse(trained), ArtifactRef.parse(dataset))
    show_version(run, result)
    return result.to_json()
