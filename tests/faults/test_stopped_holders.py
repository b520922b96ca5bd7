"""The real limits: a holder is stopped for 70 s, another run takes its place after 60 s, the first one wakes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lease_processes import contender, history, unsealed
from waiting import wait_for

from ts4s_core.artifacts.leases.claims import CLAIM
from ts4s_core.artifacts.leases.lease import LIMITS, claims
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings

STOPPED_S = 70.0


@pytest.fixture(params=["folder", "moto", "rclone"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, fronts: Callable[[str], Any]) -> StorageSettings:
    """A folder; a server whose conditional writes are atomic; one without conditional writes."""
    if request.param == "folder":
        return StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"))
    server = request.getfixturevalue(f"{request.param}_server")
    settings: StorageSettings = server.settings(tmp_path / "cache")
    if request.param == "rclone":
        return settings
    front = fronts(server.url)
    front.serialise = True
    return settings.model_copy(update={"endpoint_url": front.url})


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_holder_that_was_stopped_for_seventy_seconds(storage: StorageSettings) -> None:
    with contender("run", storage, limits=LIMITS, mark="A") as first:
        first.expect("begun")
        first.stop()
        stopped = time.monotonic()
        with contender("run", storage, limits=LIMITS, mark="B") as second:
            second.expect("begun")
            assert time.monotonic() - stopped >= LIMITS.expires_s - LIMITS.renew_s
            time.sleep(max(0.0, STOPPED_S - (time.monotonic() - stopped)))
            first.wake()
            first.go_on()
            assert "was lost: this process was silent for 60 s" in first.expect("failed LeaseHeldError")
            assert first.ended() == 1
            second.go_on()
            second.expect("sealed")
            second.expect("promoted 1")
            assert second.ended() == 0
    store = ArtifactStore.open(storage)
    assert history(store) == [(1, "promote", "B")]
    assert unsealed(store) == []


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_holder_that_nobody_missed_goes_on(tmp_path: Path) -> None:
    """A laptop that was shut: nobody took the place, so nothing was lost."""
    storage = StorageSettings(uri=str(tmp_path / "store"))
    with contender("run", storage, limits=LIMITS, mark="A") as only:
        only.expect("begun")
        only.stop()
        time.sleep(STOPPED_S)
        only.process.send_signal(signal.SIGCONT)
        only.go_on()
        only.expect("sealed")
        only.expect("promoted 1")
        assert only.ended() == 0
    assert history(ArtifactStore.open(storage)) == [(1, "promote", "A")]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_who_was_stopped_while_it_chose_starts_over(tmp_path: Path) -> None:
    """Between its look at the others' numbers and its own claim: it does not come in beside whoever went on without it."""
    storage = StorageSettings(uri=str(tmp_path / "store"))
    store = ArtifactStore.open(storage)
    with contender("run", storage, limits=LIMITS, mark="A", stop_at=CLAIM) as first:
        first.expect("stopping")
        first.wait_stopped()
        stopped = time.monotonic()
        with contender("run", storage, limits=LIMITS, mark="B") as second:
            second.expect("begun")
            time.sleep(max(0.0, STOPPED_S - (time.monotonic() - stopped)))
            first.wake()
            assert wait_for(lambda: sum(claim.number > 0 for claim in claims(store.storage, "demo")) == 2, 60)
            second.go_on()
            second.expect("sealed")
            second.expect("promoted 1")
            assert second.ended() == 0
        first.expect("begun")
        first.go_on()
        first.expect("sealed")
        first.expect("promoted 2")
        assert first.ended() == 0
    assert history(store) == [(1, "promote", "B"), (2, "promote", "A")]
    assert unsealed(store) == []


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_decision_that_comes_after_seventy_seconds_is_put_back(rclone_server: Any, tmp_path: Path) -> None:
    """A store that takes every write: who was stopped right before it writes its decision does not write over another one."""
    storage = rclone_server.settings(tmp_path / "cache")
    with contender("run", storage, limits=LIMITS, mark="A", stop_at="registry/demo/00000001.json") as first:
        first.expect("begun")
        first.go_on()
        first.expect("sealed")
        first.expect("stopping")
        first.wait_stopped()
        stopped = time.monotonic()
        with contender("run", storage, limits=LIMITS, mark="B") as second:
            second.expect("begun")
            second.go_on()
            second.expect("sealed")
            second.expect("promoted 1")
            assert second.ended() == 0
        time.sleep(max(0.0, STOPPED_S - (time.monotonic() - stopped)))
        first.wake()
        first.expect("failed ")
        assert first.ended() == 1
    store = ArtifactStore.open(storage)
    assert [found for found in history(store) if found[1] != "retract"] == [(1, "promote", "B")]
