"""``ts4s predict``: a trained model over rows of any number, without Prefect."""

from __future__ import annotations

from flows.cli.command import Invocation, Outcome
from tasks.current_run import begun
from ts4s_core.pipeline.prediction_run import PredictionRun


def predict_command(invocation: Invocation) -> Outcome:
    """Predict every row of the source."""
    options = invocation.options
    asked = {name: getattr(options, name) for name in ("output", "errors", "embeddings", "form")}
    display = invocation.display
    with begun(PredictionRun(invocation.settings, progress=display.progress, stage=display.stage)) as run:
        with run.stage("check"):
            ref = run.check(options.model, asked)
        return Outcome(run.predict(ref, asked))
