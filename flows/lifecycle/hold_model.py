"""The frame of a flow that trains: its input is checked, and the model's lease is held while its steps run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, runtime

from flows.lifecycle.final_state import skip_if_held
from tasks.current_run import joined_run
from tasks.prefect_ui.run_log import run_log
from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.errors import LeaseHeldError
from ts4s_core.settings import Settings


def with_model_held(settings: Settings, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Check the input of the current run (or of a new one), and run ``work`` while the run holds the model.

    Returns:
        the result of ``work``, or one of status ``skipped`` where another run holds the model. The command line waits for
        the model instead.
    """
    with joined_run(settings) as run, run_log(), contextlib.ExitStack() as held:
        try:
            skip_if_held(run)
            run.check_input()
            run.preflight()
            held.enter_context(Lease.hold(run.store, settings.name, wait=runtime.deployment.id is None, doing="a run"))
        except LeaseHeldError as exc:
            get_run_logger().info("%s", exc)
            return _skipped(settings, why=str(exc))
        # Who loses the model from here on was not skipped: it fails, and says so.
        return work()


def _skipped(settings: Settings, *, why: str) -> dict[str, Any]:
    nothing: dict[str, Any] = dict.fromkeys(("version", "promoted", "weights_sha256"))
    empty: dict[str, Any] = {"metrics": {}, "train": {}, "seconds": {}, "artifacts": {}}
    return {"status": "skipped", "model": settings.name, "why": why, **nothing, **empty}
