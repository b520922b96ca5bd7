"""Task: the base model as an ONNX artifact."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_version
from tasks.step import step
from ts4s_core.pipeline.classifier_run import ClassifierRun


@step("export")
def export_onnx() -> dict[str, Any]:
    """Export the base model; returns the step's result as JSON."""
    run = current_run(ClassifierRun)
    result = run.export()
    show_version(run, result)
    return result.to_json()
