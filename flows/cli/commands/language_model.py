"""``ts4s language-model``: check the text and the model, start Prefect beside it, run the flow."""

from __future__ import annotations

from flows.cli.command import Invocation, Outcome
from flows.cli.commands.retrain import checked_run, flow_parameters
from flows.cli.output import table
from ts4s_core.language.defaults import with_defaults


def language_model_command(invocation: Invocation) -> Outcome:
    """Run the flow against the configured Prefect API, or a temporary server.

    The input is checked before the flow run begins, while the server starts: what is refused leaves no run behind.
    """
    settings = with_defaults(invocation.settings)
    with checked_run(settings, invocation.display):
        from flows.language_model import language_model

        result = language_model(**flow_parameters(invocation.settings, language_model.name))
    shown = {name: value for name, value in result.items() if name != "sample"}
    return Outcome(result, text="\n".join([*table(shown), "", result["sample"] or ""]))
