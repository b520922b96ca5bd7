"""Task: a trained model over the rows of the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.current_run import current_run
from tasks.prefect_ui.show import show_table
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.prediction_run import PredictionRun


@step("predict")
def predict(trained: str, asked: Mapping[str, str | None]) -> dict[str, Any]:
    """Predict every row of the source.

    Args:
        trained: reference of the trained artifact.
        asked: ``output``, ``errors``, ``embeddings``, ``form``; None: the default.
    """
    run = current_run(PredictionRun)
    result = run.predict(ArtifactRef.parse(trained), asked)
    rows = [{"figure": name, "value": str(value)} for name, value in result.items()]
    show_table("predictions", ArtifactRef.parse(trained).name, rows, description=f"predictions of {trained}")
    return result
