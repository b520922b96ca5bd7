"""Task: the transformer of a language model as an ONNX artifact."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.language_run import LanguageRun


@step("export")
def export_decoder(dataset: str) -> dict[str, Any] | None:
    """Export the transformer that the settings name; None for a small network.

    Args:
        dataset: reference of the dataset, whose tokens the model reads.
    """
    run = current_run(LanguageRun)
    result = run.export_decoder(ArtifactRef.parse(dataset))
    if result is None:
        return None
    show_version(run, result)
    return result.to_json()
