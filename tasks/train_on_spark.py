"""Task: the trained artifact."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.pictures import loss_picture
from tasks.prefect_ui.show import show_picture, show_version, showing_progress
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.steps.evaluation import curves_of
from ts4s_core.pipeline.training_run import TrainingRun


# It restarts its own attempts from checkpoints, up to train.max_restarts: a retry from outside would begin that anew.
@step("train", retries=0)
def train_on_spark(dataset: str, model: str) -> dict[str, Any]:
    """Train a model on a dataset, as one Spark barrier stage an attempt.

    Args:
        dataset: reference of the dataset.
        model: reference of the imported model.

    Raises:
        TrainingError: if every attempt failed, or a loss is not finite.
    """
    run = current_run(TrainingRun)  # type: ignore[type-abstract]  # whichever kind it is
    with showing_progress(run, "train"):
        result = run.train(ArtifactRef.parse(dataset), ArtifactRef.parse(model))
    show_version(run, result)
    picture = loss_picture(curves_of(run.store, result.ref))
    show_picture("loss", run.settings.name, picture, description=f"loss of {result.ref}")
    return result.to_json()
