"""Task: the report on a trained model, with the gate's decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.pictures import MOST_CLASSES, confusion_picture
from tasks.prefect_ui.show import show_picture, show_table, show_version
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.pipeline.run import Run
from ts4s_core.pipeline.training_run import TrainingRun


@step("evaluate")
def evaluate(trained: str, dataset: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Measure a trained version on the test side of its dataset and compare it with the champion.

    Args:
        trained: reference of the trained artifact.
        dataset: reference of the dataset.
        seconds: how long the steps before took; for the report alone.
    """
    run = current_run(TrainingRun)  # type: ignore[type-abstract]  # whichever kind it is
    result = run.evaluate(ArtifactRef.parse(trained), ArtifactRef.parse(dataset), seconds=seconds)
    show_version(run, result)
    facts = ReportFacts.of(result)
    rows = [{"metric": name, "value": value, "majority class": facts.baseline.get(name)} for name, value in facts.metrics.items()]
    show_table("metrics", run.settings.name, rows, description=f"metrics of {trained}")
    _show_confusion(run, result.ref)
    return result.to_json()


def _show_confusion(run: Run, report: ArtifactRef) -> None:
    """The matrix of a classifier of not too many classes; others have none that a person reads."""
    files = {entry.path for entry in run.store.manifest(report).files}
    if "confusion.csv" not in files:
        return
    with run.store.open_file(report, "metrics.json") as file:
        metrics = json.load(file)
    matrix, labels = metrics.get("confusion"), [str(row["label"]) for row in metrics.get("classes", [])]
    if not matrix or len(labels) > MOST_CLASSES or isinstance(matrix[0][0], list):
        return
    name = run.settings.name
    show_picture("confusion", name, confusion_picture(labels, matrix), description=f"confusion matrix of {report}")
    rows = [{"true label": label, **dict(zip(labels, row, strict=True))} for label, row in zip(labels, matrix, strict=True)]
    show_table("confusion-table", name, rows, description=f"confusion matrix of {report}: columns are the answers")
