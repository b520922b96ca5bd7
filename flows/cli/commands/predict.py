"""``ts4s predict``: a trained model over rows of any number, without Prefect."""

from __future__ import annotations

from dataclasses import fields

from flows.cli.command import Invocation, Outcome
from tasks.current_run import begun
from ts4s_core.pipeline.prediction_run import PredictionRun
from ts4s_core.prediction.options import PredictOptions


def predict_command(invocation: Invocation) -> Outcome:
    """Predict every row of the source."""
    given, display = vars(invocation.options), invocation.display
    options = PredictOptions.of({field.name: given[field.name] for field in fields(PredictOptions)})
    with begun(PredictionRun(invocation.settings, progress=display.progress, stage=display.stage)) as run:
        with run.stage("check"):
            ref = run.check(given["model"], options)
        return Outcome(run.predict(ref, options))
