"""The watching flow: looks at the data source, and starts a retraining where its content changed."""

# mypy: disable-error-code="valid-type"
# The groups of parameters are classes that are made when this module is imported, from the settings that the flow uses.
from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment

from flows.lifecycle.final_state import MAY_PASS, SKIPPED, run_to_final_state
from flows.lifecycle.parameters import ModelName, form_group, settings_of
from tasks.prefect_ui.run_log import run_log
from ts4s_core.data.source_snapshot import SourceSnapshot, take_snapshot
from ts4s_core.settings import Settings

#: Tags of the runs that a watch started: for which model, and for which content. The newest one is all that it remembers.
WATCHES, CONTENT = "watch:", "content:"
#: Runs for one content that fail for a passing reason; the pause before the next one doubles each time.
MOST_TRIES = 6
FIRST_PAUSE = timedelta(minutes=5)
FLOW = "watch"
_Data, _MoreData, _Storage = (form_group(FLOW, group) for group in ("data", "more_data", "storage"))


@flow(name=FLOW, persist_result=False, validate_parameters=False)
def watch(
    name: ModelName = "default",
    deployment: str = "retrain/on-demand",
    data: _Data = _Data(),  # noqa: B008  frozen; and the form in Prefect's UI shows these defaults
    more_data: _MoreData = _MoreData(),  # noqa: B008
    storage: _Storage = _Storage(),  # noqa: B008
) -> dict[str, Any]:
    """Check ``data.source``; if its content differs from that of the last started run, start a run of a deployment.

    Args:
        name: the model's name in the registry
        deployment: the deployment whose run is started, as FLOW/DEPLOYMENT
        data: the data that are watched
        more_data: handed on to the run that is started
        storage: where an S3 source is, besides the artifacts

    Returns:
        ``status`` started or unchanged, ``said``, ``digest``, ``files``, ``run``.
    """
    groups = {"data": data, "more_data": more_data, "storage": storage}
    return run_to_final_state(lambda: _watch(settings_of(FLOW, groups, name=name), deployment, groups))  # type: ignore[no-any-return]


def _watch(settings: Settings, deployment: str, groups: dict[str, Any]) -> dict[str, Any]:
    with run_log():
        snapshot = take_snapshot(settings.data, settings.storage)
    with get_client(sync_client=True) as client:
        tags = FlowRunFilterTags(all_=[f"{WATCHES}{settings.name}"])
        order = FlowRunSort.EXPECTED_START_TIME_DESC
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tags), sort=order, limit=MOST_TRIES)
    last = runs[0] if runs else None
    found = {"digest": snapshot.digest, "files": snapshot.files}
    where = f"{settings.data.source} ({snapshot.files} files, {snapshot.size:,} bytes)"
    same = list(itertools.takewhile(lambda run: _content_tag(snapshot) in run.tags, runs))
    if last is not None and same and not to_be_tried_again(same, now=datetime.now(UTC)):
        text = f"nothing changed in {where}: {last.name} was started for it and is {_state(last)}"
        get_run_logger().info("%s", text)
        return {"status": "unchanged", "said": f"unchanged: {text}", **found, "run": str(last.id)}
    started: Any = run_deployment(  # a coroutine in asynchronous flows alone
        deployment,
        parameters={"name": settings.name, **{group: given for group, values in groups.items() if (given := _plain(values))}},
        timeout=0,
        as_subflow=False,
        # Two watches that see the same change start one run.
        idempotency_key=f"{WATCHES}{settings.name}/{snapshot.digest}/{last.id if last else 'first'}",
        tags=["ts4s", f"{WATCHES}{settings.name}", _content_tag(snapshot)],
    )
    why = _why(last, snapshot)
    text = f"{where}: {why}; {started.name} was started"
    get_run_logger().info("%s", text)
    return {"status": "started", "said": f"started: {text}", **found, "run": str(started.id)}


def to_be_tried_again(runs: Sequence[FlowRun], *, now: datetime) -> bool:
    """Whether the work of some content is still to be done, and now is the time for the next try.

    Args:
        runs: that were started for it, the newest first.
        now: the time.
    """
    if _ended_undone(runs[0]):
        return True
    failed = list(itertools.takewhile(_failed_for_a_passing_reason, runs))
    if not failed or len(failed) >= MOST_TRIES:
        return False
    ended = failed[0].end_time
    return ended is None or now - ended >= FIRST_PAUSE * 2 ** (len(failed) - 1)


def _failed_for_a_passing_reason(run: FlowRun) -> bool:
    state = run.state
    return state is not None and state.type == StateType.FAILED and (state.message or "").endswith(MAY_PASS)


def _ended_undone(run: FlowRun) -> bool:
    """Whether a run ended without doing its work and for no fault of the data: crashed, or the model was held."""
    state = run.state
    return state is not None and (state.type == StateType.CRASHED or (state.is_final() and state.name == SKIPPED))


def _state(run: FlowRun) -> str:
    return "unknown" if run.state is None or run.state.name is None else run.state.name.lower()


def _content_tag(snapshot: SourceSnapshot) -> str:
    return f"{CONTENT}{snapshot.digest[:32]}"


def _plain(group: Any) -> Any:
    return group.model_dump(mode="json", exclude_unset=True) if hasattr(group, "model_dump") else group


def _why(last: FlowRun | None, snapshot: SourceSnapshot) -> str:
    if last is None:
        return "seen for the first time"
    return f"{last.name} ended {_state(last)}" if _content_tag(snapshot) in last.tags else "changed"
