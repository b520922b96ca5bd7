"""Task: a trained model over the rows of the source."""

from __future__ import annotations

from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_table
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.prediction_run import PredictionRun
from ts4s_core.prediction.options import PredictOptions


@step("predict")
def predict(trained: str, options: dict[str, str | None]) -> dict[str, Any]:
    """Predict every row of the source.

    Args:
        trained: reference of the trained artifact.
        options: those of :class:`ts4s_core.prediction.options.PredictOptions`.
    """
    run = current_run(PredictionRun)
    result = run.predict(ArtifactRef.parse(trained), PredictOptions.of(options))
    rows = [{"figure": name, "value": str(value)} for name, value in result.items()]
    show_table("predictions", ArtifactRef.parse(trained).name, rows, description=f"predictions of {trained}")
    return result
