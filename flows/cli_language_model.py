"""``ts4s language-model``: check the text and the model, start Prefect beside it, run the flow."""

from __future__ import annotations

from flows.cli_commands import Invocation, Outcome
from flows.cli_retrain import flow_parameters, secrets_in_environment
from flows.output import table
from flows.prefect_server import prefect_api
from tasks.language_run import LanguageRun
from tasks.run import open_run
from ts4s_core.language.defaults import with_defaults


def language_model_command(invocation: Invocation) -> Outcome:
    """Run the flow against the configured Prefect API, or a temporary server.

    The input is checked before the flow run begins, while the server starts: what is refused leaves no run behind.
    """
    settings, display = with_defaults(invocation.settings), invocation.display
    with prefect_api() as server, open_run(settings, progress=display.progress, stage=display.stage) as run:
        assert isinstance(run, LanguageRun), "model.task is language-model"
        run.program.warm_up()
        with display.stage("check"):
            run.check_text()
        if server is not None:
            with display.stage("prefect") as note:
                server.wait()
                note.text = f"serves {server.api_url.removesuffix('/api')} until the end of this run"
        with secrets_in_environment(settings):
            from flows.language_model import language_model

            result = language_model(**flow_parameters(settings), generate=settings.generate)
    shown = {name: value for name, value in result.items() if name != "sample"}
    return Outcome(result, text="\n".join([*table(shown), "", result["sample"] or ""]))
