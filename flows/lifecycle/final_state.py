"""How a run of a deployment begins and ends: late runs, a model that another run holds, and a final state with its summary."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Failed

from ts4s_core.artifacts.leases.lease import holder
from ts4s_core.errors import InputError, IntegrityError, LeaseHeldError, NonFiniteError, ParityError, Ts4sError, one_line
from ts4s_core.pipeline.run import Run

SKIPPED, UNCHANGED = "Skipped", "Unchanged"
#: Ends the message of a failure that is not the settings' or the data's fault: a store that was away, a cluster without slots.
MAY_PASS = " (may pass by itself: a watch tries again)"
_STAYING = (InputError, IntegrityError, ParityError, NonFiniteError)
_NAMES = {"skipped": SKIPPED, "unchanged": UNCHANGED}


def run_to_final_state(work: Callable[[], dict[str, Any]]) -> Any:
    """Run the work of a flow and turn its outcome into the final state of the flow run.

    Returns:
        the result itself on the command line; in a run of a deployment, a Prefect state whose message is a summary of the
        result, or the cause of the failure.
    """
    if runtime.deployment.id is None:
        return work()
    log = get_run_logger()
    try:
        _drop_late_runs()
        result = work()
    except Ts4sError as exc:
        log.error("%s", exc)
        return Failed(message=str(exc) if isinstance(exc, _STAYING) else f"{exc}{MAY_PASS}")
    except Exception as exc:
        log.exception("unexpected %s", type(exc).__name__)
        return Failed(message=one_line(f"unexpected {type(exc).__name__}: {exc}") + MAY_PASS)
    return Completed(name=_NAMES.get(result.get("status", ""), "Completed"), message=summary_of(result), data=result)


def summary_of(result: dict[str, Any]) -> str:
    """One sentence about a result, for the final state of its run."""
    if "said" in result:
        return str(result["said"])
    status, model, version = result.get("status"), result.get("model"), result.get("version")
    if status == "skipped":
        return f"skipped: {result['why']}"
    if status == "unchanged":
        return f"unchanged: {model} {version} is what these data and settings give; nothing was done"
    if status == "done":
        return f"done: {model} {version} {'promoted' if result['promoted'] else 'not promoted'}: {result['why']}"
    return ", ".join(f"{name} {value}" for name, value in result.items() if isinstance(value, int | float | str))


def skip_if_held(run: Run) -> None:
    """End a run of a deployment before it reads its data if another run holds the model; writes nothing.

    It waits until the holder renews its lease; a holder that is silent for 60 s loses it later.

    Raises:
        LeaseHeldError: if another run holds the model; names it.
    """
    if runtime.deployment.id is None:
        return
    held_by = holder(run.store.storage, run.settings.name)
    if held_by is not None:
        raise LeaseHeldError(f"Lease of {run.settings.name} is held by {held_by}: that run does the work")


def _drop_late_runs() -> None:
    """Cancel the scheduled runs of this deployment that are due already: this run does their work."""
    own = runtime.flow_run.id
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(own)
        if not this.auto_scheduled or this.deployment_id is None:
            return
        waiting = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[this.deployment_id])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            ),
        )
        late = [run for run in waiting if run.auto_scheduled and run.id != this.id]
        for run in late:
            client.set_flow_run_state(
                run.id, Cancelled(name=SKIPPED, message=f"skipped: {this.name} ran in its place"), force=True
            )
    if late:
        get_run_logger().info("%d late runs of this schedule were skipped", len(late))
