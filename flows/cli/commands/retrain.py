"""``ts4s retrain``: check the input, start Prefect beside it, run the flow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flows.cli.command import Invocation, Outcome
from flows.cli.display import Display
from flows.lifecycle.parameters import as_parameters
from flows.prefect_api.server import prefect_api
from tasks.current_run import open_run
from ts4s_core.settings import Settings
from ts4s_core.settings.root import ENV_PREFIX, SECRET_FIELDS


def retrain_command(invocation: Invocation) -> Outcome:
    """Run the flow against the configured Prefect API, or a temporary server.

    The input is checked before the flow run begins, while the server starts: what is refused leaves no run behind.
    """
    settings = invocation.settings
    with checked_run(settings, invocation.display):
        from flows.retrain import retrain

        return Outcome(retrain(**flow_parameters(settings, retrain.name)))


@contextlib.contextmanager
def checked_run(settings: Settings, display: Display) -> Iterator[None]:
    """A run whose input is fit, with a Prefect API that serves and with its secrets where the flow finds them."""
    with prefect_api() as server, open_run(settings, progress=display.progress, stage=display.stage) as run:
        run.program.warm_up()
        with display.stage("check"):
            run.check_input()
            run.preflight()
        if server is not None:
            with display.stage("prefect") as note:
                server.wait()
                where = f"serves {server.api_url.removesuffix('/api')} until the end of this run"
                note.text = f"{where}, login in {server.login_file}"
        with secrets_in_environment(settings):
            yield


def flow_parameters(settings: Settings, flow: str) -> dict[str, Any]:
    """The settings as parameters of a flow, in the shape of its form: what was given alone, and without secrets."""
    given: dict[str, Any] = {"name": settings.name, "reuse": settings.reuse}
    for group in Settings.model_fields:
        values = getattr(settings, group)
        if isinstance(values, BaseModel):
            secrets = {name for place, name in SECRET_FIELDS if place == group}
            found = values.model_dump(mode="json", exclude_unset=True, exclude=secrets)
            given |= {group: found} if found else {}
    return as_parameters(flow, given)


@contextlib.contextmanager
def secrets_in_environment(settings: Settings) -> Iterator[None]:
    """Hand secrets (a config file's, perhaps) to the flow by the environment, the one way that Prefect does not record."""
    given = {f"{ENV_PREFIX}{group}__{name}".upper(): getattr(getattr(settings, group), name) for group, name in SECRET_FIELDS}
    before = {variable: os.environ.get(variable) for variable in given}
    os.environ.update({variable: secret.get_secret_value() for variable, secret in given.items() if secret is not None})
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value
