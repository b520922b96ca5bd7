"""``ts4s predict``: a trained model over rows of any number, without Prefect."""

from __future__ import annotations

from flows.cli.command import Invocation, Outcome
from tasks.current_run import open_run


def predict_command(invocation: Invocation) -> Outcome:
    """Predict every row of the source."""
    options = invocation.options
    asked = {name: getattr(options, name) for name in ("output", "errors", "embeddings", "form")}
    with open_run(invocation.settings, progress=invocation.display.progress, stage=invocation.display.stage) as run:
        with run.stage("check"):
            ref = run.check_prediction(options.model, asked)
        return Outcome(run.predict(ref, asked))
