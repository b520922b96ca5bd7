"""``ts4s stack up``, ``status`` and ``down``."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from flows.cli.command import Invocation, Outcome
from flows.cli.commands.deploy import PrefectApiError, deploy_options
from flows.cli.output import columns
from flows.prefect_api.server import NO_TELEMETRY, QUIET
from flows.stack.up_and_down import StackOptions, down, status, up
from ts4s_core.errors import SettingsError, Ts4sError, one_line
from ts4s_core.host_user import expanded

DEFAULT_FOLDER = ".ts4s-stack"
DEFAULT_MEMORY = "2g"


def up_command(invocation: Invocation) -> Outcome:
    """Start the stack, or bring the deployments of a running one up to date."""
    deployed = deploy_options(invocation)
    options = stack_options(invocation)
    os.environ.update({**NO_TELEMETRY, **{name: value for name, value in QUIET.items() if name not in os.environ}})
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1"]))
    os.environ.update({"NO_PROXY": no_proxy, "no_proxy": no_proxy})
    with invocation.display.stage("stack"):
        try:
            found = up(invocation.settings, options, deployed)
        except Ts4sError:
            raise
        except Exception as exc:
            raise PrefectApiError(f"the stack's Prefect server refused: {type(exc).__name__}: {one_line(str(exc))}") from exc
    return Outcome(found, text=_text(found))


def status_command(invocation: Invocation) -> Outcome:
    """Say what is alive; exit 1 unless all is."""
    found = status(_folder(invocation))
    return Outcome(found, text=_text(found), exit_code=0 if found["status"] == "up" else 1)


def down_command(invocation: Invocation) -> Outcome:
    """End everything."""
    with invocation.display.stage("stack"):
        found = down(_folder(invocation))
    ended = ", ".join(found["ended"]) or "nothing was running"
    return Outcome(found, text=f"down  {found['folder']}\n{ended}")


def stack_options(invocation: Invocation) -> StackOptions:
    """The command's own flags.

    Raises:
        SettingsError: naming the flag that is wrong.
    """
    cores = invocation.options.cores
    if cores is not None and not cores.isdigit():
        raise SettingsError(f"--cores {cores} is not valid: expected a whole number such as 2")
    memory = invocation.options.memory or DEFAULT_MEMORY
    if not re.fullmatch(r"[1-9]\d*[mg]", memory):
        raise SettingsError(f"--memory {memory} is not valid: expected an amount of memory such as 2g or 1500m")
    chosen = max(1, (os.cpu_count() or 2) // 2) if cores is None else int(cores)
    return StackOptions(folder=_folder(invocation), cores=chosen, memory=memory)


def _folder(invocation: Invocation) -> Path:
    return expanded(invocation.options.folder or DEFAULT_FOLDER).absolute()


def _text(found: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        (name, "alive" if service["alive"] else "dead", str(service["pid"]), service["address"] or "-")
        for name, service in found["services"].items()
    ]
    lines = [f"{found['status']}  {found['folder']}"]
    if rows:
        lines += ["", columns(("process", "state", "pid", "address"), rows)]
    if "config" in found:
        places = ("prefect_ui", "spark_ui", "spark_master", "s3_endpoint", "storage_uri", "config", "prefect_login")
        lines += ["", columns(("", ""), [(place.replace("_", " "), found[place]) for place in places]).lstrip()]
        login = f'PREFECT_API_AUTH_STRING="$(cat {shlex.quote(found["prefect_login"])})"'
        command = f"ts4s retrain --config {shlex.quote(found['config'])}"
        lines += ["", f"run on it: PREFECT_API_URL={found['prefect_api']} {login} {command}"]
    return "\n".join(lines)
