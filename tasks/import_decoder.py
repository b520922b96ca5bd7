"""Task: a trainable language model."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.language_run import LanguageRun


@step("import")
def import_decoder(dataset: str, exported: str | None) -> dict[str, Any]:
    """Make the model that is trained.

    Args:
        dataset: reference of the dataset.
        exported: reference of the ONNX artifact; None for a small network.

    Raises:
        ParityError: if the imported model does not compute what the exported one does.
    """
    run = current_run(LanguageRun)
    onnx = None if exported is None else ArtifactRef.parse(exported)
    result = run.import_decoder(ArtifactRef.parse(dataset), onnx)
    show_version(run, result)
    return result.to_json()
