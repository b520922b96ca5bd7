"""Task: a trainable model with a new head."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.classifier_run import ClassifierRun


@step("import")
def import_model(base: str) -> dict[str, Any]:
    """Put a head with the data's classes on an exported model.

    Args:
        base: reference of the ONNX artifact.

    Raises:
        ParityError: if the imported model does not compute what the exported one does.
    """
    run = current_run(ClassifierRun)
    labels = run.check().labels
    result = run.import_model(ArtifactRef.parse(base), classes=len(labels), labels=labels)
    show_version(run, result)
    return result.to_json()
