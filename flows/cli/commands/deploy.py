"""``ts4s deploy`` and ``ts4s run-deployments``."""

from __future__ import annotations

import os
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.output import columns
from flows.deployment.specs import DeployOptions
from flows.prefect_api.server import NO_TELEMETRY, QUIET, configured_api_url
from ts4s_core.errors import SettingsError, Ts4sError, one_line
from ts4s_core.settings.load import NOTIFY_VARIABLE

#: What the command line ends with on SIGTERM; ``run-deployments`` ends by nothing else.
EXIT_TERMINATED = 143


class PrefectApiError(Ts4sError):
    """The Prefect server refused something, or does not answer."""


def deploy_command(invocation: Invocation) -> Outcome:
    """Make or update pool, deployments and automations."""
    options = deploy_options(invocation)
    url = _api(invocation.settings.name)
    with invocation.display.stage("deploy"):
        try:
            from flows.deployment.deploy import deploy

            result = deploy(invocation.settings, options)
        except Ts4sError:
            raise
        except Exception as exc:
            raise _refused(exc, url) from exc
    rows: list[tuple[str, ...]] = [(change, name) for name, change in result["objects"].items()]
    ending = f"start a worker: prefect worker start --pool {options.pool}" if result["changed"] else "nothing changed"
    return Outcome(result, text=f"{columns(('', ''), rows).lstrip()}\n{ending}")


def run_deployments_command(invocation: Invocation) -> Outcome:
    """Run the deployments in this process' children until SIGTERM or Ctrl-C."""
    options = deploy_options(invocation)
    url = _api(invocation.settings.name, log=True)
    try:
        from flows.deployment.run_here import run_here

        return Outcome(run_here(invocation.settings, options), exit_code=EXIT_TERMINATED)
    except Ts4sError:
        raise
    except Exception as exc:
        raise _refused(exc, url) from exc


def deploy_options(invocation: Invocation) -> DeployOptions:
    """The command's own flags; the address of notifications comes from the environment, because it may hold a key.

    Raises:
        SettingsError: naming the flag that is wrong.
    """
    given: dict[str, Any] = {}
    for name in ("pool", "cron", "timezone"):
        value = getattr(invocation.options, name, None)
        if value is not None:
            given[name] = value
    for flag, name in (("watch_every", "watch_every_s"), ("limit", "limit")):
        value = getattr(invocation.options, flag, None)
        if value is not None:
            if not value.isdigit():
                raise SettingsError(f"--{flag.replace('_', '-')} {value} is not valid: expected a whole number such as 300")
            given[name] = int(value)
    url = os.environ.get(NOTIFY_VARIABLE) or None
    if url is not None and not url.startswith(("http://", "https://")):
        raise SettingsError(f"{NOTIFY_VARIABLE} is not valid: expected an address that begins with http:// or https://")
    return DeployOptions(**given, notify_url=url)


def _api(name: str, *, log: bool = False) -> str:
    url = configured_api_url()
    if url is None:
        raise SettingsError(
            f"no Prefect server is configured, so {name} cannot be deployed: set PREFECT_API_URL, as in "
            "http://127.0.0.1:4200/api, and start a server with: prefect server start"
        )
    quiet = {} if log else {variable: value for variable, value in QUIET.items() if variable not in os.environ}
    os.environ.update({**NO_TELEMETRY, **quiet})
    return url


def _refused(exc: Exception, url: str) -> PrefectApiError:
    return PrefectApiError(f"Prefect's API at {url} failed: {type(exc).__name__}: {one_line(str(exc))}. Check PREFECT_API_URL")
