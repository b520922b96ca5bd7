"""The body of a flow that trains: its input is checked, and the model is held while its steps run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, runtime

from flows.lifecycle.conclude import leave_if_held
from tasks.current_run import joined_run
from tasks.prefect_ui.run_log import run_log
from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.errors import LeaseHeldError
from ts4s_core.settings import Settings


def while_held(settings: Settings, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Check the input of the run that is under way (or of a new one), and do its work while it holds the model.

    Returns:
        what the work gave, or a result of status ``skipped`` where another run holds the model. The command line waits for
        the model instead.
    """
    with joined_run(settings) as run, run_log():
        try:
            leave_if_held(run)
            run.check_input()
            run.preflight()
            with Lease.hold(run.store, settings.name, wait=runtime.deployment.id is None, doing="a run"):
                return work()
        except LeaseHeldError as exc:
            get_run_logger().info("%s", exc)
            return _skipped(settings, why=str(exc))


def _skipped(settings: Settings, *, why: str) -> dict[str, Any]:
    nothing: dict[str, Any] = dict.fromkeys(("version", "promoted", "weights_sha256"))
    empty: dict[str, Any] = {"metrics": {}, "train": {}, "seconds": {}, "artifacts": {}}
    return {"status": "skipped", "model": settings.name, "why": why, **nothing, **empty}
