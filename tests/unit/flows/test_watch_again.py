"""When a watch starts another run for data that did not change: the last one ended without its work, for a passing reason."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from prefect import runtime
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, State

from flows.lifecycle import final_state
from flows.lifecycle.final_state import MAY_PASS, SKIPPED, run_to_final_state
from flows.watch import FIRST_PAUSE, MOST_TRIES, to_be_tried_again
from ts4s_core.errors import DataError, NonFiniteError, ParityError, SparkError, StoreError

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
PASSING, REFUSED = Failed(message=f"the store was away{MAY_PASS}"), Failed(message="label x has no rows")


def run(state: State, *, ended: timedelta = timedelta(hours=9)) -> FlowRun:
    return FlowRun(flow_id=uuid.uuid4(), state=state, end_time=NOW - ended)


@pytest.mark.parametrize(
    ("states", "again"),
    [
        ([Completed()], False),
        ([Running()], False),
        ([REFUSED], False),
        ([REFUSED, PASSING], False),
        ([Crashed()], True),
        ([Cancelled(name=SKIPPED)], True),
        ([Cancelled()], False),
        ([PASSING], True),
        ([PASSING] * (MOST_TRIES - 1), True),
        ([PASSING] * MOST_TRIES, False),
        ([PASSING, REFUSED], True),
    ],
)
def test_which_ends_are_tried_again(states: list[State], again: bool) -> None:
    assert to_be_tried_again([run(state) for state in states], now=NOW) is again


def test_the_pause_doubles() -> None:
    for tries in range(1, MOST_TRIES):
        pause = FIRST_PAUSE * 2 ** (tries - 1)
        for ended, again in ((pause - timedelta(seconds=1), False), (pause, True)):
            assert to_be_tried_again([run(PASSING, ended=ended)] * tries, now=NOW) is again


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (DataError("label x has no rows"), False),
        (ParityError("differs"), False),
        (NonFiniteError("loss is nan"), False),
        (StoreError("the store was away"), True),
        (SparkError("no slots"), True),
        (OSError("gone"), True),
    ],
)
def test_a_run_says_which_it_was(error: Exception, passing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deployment:
        id = "a deployment"

    class Log:
        def error(self, *_said: object) -> None: ...

        def exception(self, *_said: object) -> None: ...

    def work() -> dict[str, object]:
        raise error

    monkeypatch.setattr(runtime, "deployment", Deployment)
    monkeypatch.setattr(final_state, "get_run_logger", Log)
    monkeypatch.setattr(final_state, "_drop_late_runs", lambda: None)
    state = run_to_final_state(work)
    assert state.is_failed()
    assert str(error) in state.message
    assert state.message.endswith(MAY_PASS) is passing
