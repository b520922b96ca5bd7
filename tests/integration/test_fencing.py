"""A run that was stopped wakes after another one took its place: it fails by name, and changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lease_processes import SHORT, contender, faked_clock, history, needs_namespaces, unsealed

from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.errors import LeaseHeldError
from ts4s_core.settings import StorageSettings

REGISTRY_ENTRY, MANIFEST = "registry/demo/00000001.json", "/manifest.json"


@pytest.fixture(params=["folder", "moto", "rclone"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    """A folder; a server whose conditional writes are atomic; one without conditional writes."""
    if request.param == "folder":
        return StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"))
    if request.param == "rclone":
        return request.getfixturevalue("rclone_server").settings(tmp_path / "cache")
    server, fronts = request.getfixturevalue("moto_server"), request.getfixturevalue("fronts")
    front = fronts(server.url)
    front.serialise = True
    return server.settings(tmp_path / "cache").model_copy(update={"endpoint_url": front.url})


def opened(storage: StorageSettings) -> ArtifactStore:
    store = ArtifactStore.open(storage)
    store.storage.limits = SHORT
    return store


def run_to_the_end(storage: StorageSettings, mark: str) -> None:
    with contender("run", storage, mark=mark) as other:
        other.expect("begun")
        other.go_on()
        other.expect("sealed")
        other.expect("promoted")
        assert other.ended() == 0


def test_a_stopped_run_that_wakes_seals_and_promotes_nothing(storage: StorageSettings) -> None:
    with contender("run", storage, mark="A") as first:
        first.expect("begun")
        first.stop()
        run_to_the_end(storage, "B")
        first.wake()
        first.go_on()
        assert "Lease of demo was lost: this process was silent" in first.expect("failed LeaseHeldError")
        assert first.ended() == 1
    assert history(opened(storage)) == [(1, "promote", "B")]
    assert unsealed(opened(storage)) == []


def test_who_renews_keeps_its_place_however_long_others_wait(storage: StorageSettings) -> None:
    with contender("hold", storage) as holder:
        holder.expect("begun")
        with contender("hold", storage) as waiting:
            time.sleep(2 * SHORT.expires_s)  # its start and half as long again as a silence may be
            holder.go_on()
            holder.expect("still mine")
            waiting.expect("begun")
            waiting.go_on()
            waiting.expect("still mine")


@pytest.mark.parametrize("moment", [REGISTRY_ENTRY, MANIFEST], ids=["decision", "seal"])
def test_a_run_that_was_stopped_between_its_last_look_and_the_write(storage: StorageSettings, moment: str) -> None:
    """The worst moment: everything was checked, the write is the next thing that it does."""
    with contender("run", storage, mark="A", stop_at=moment) as first:
        first.expect("begun")
        first.go_on()
        if moment == REGISTRY_ENTRY:
            first.expect("sealed")
        first.expect("stopping")
        first.wait_stopped()
        run_to_the_end(storage, "B")
        first.wake()
        first.expect("failed ")
        assert first.ended() == 1
    store = opened(storage)
    assert [found for found in history(store) if found[1] != "retract"] == [(1, "promote", "B")]
    assert len(store.versions("trained", "demo")) == (2 if moment == REGISTRY_ENTRY else 1)
    # On a server without conditions the successor's own copy lies there, for somebody who wakes; gc takes it.
    left = unsealed(store)
    assert all("/.ts4s-tmp-" in path for path in left)
    assert left == [] or not store.storage.conditional_writes
    collect(store, dry_run=False, grace_s=-1.0)
    assert unsealed(store) == []
    assert history(store)[0] == (1, "promote", "B")


def test_a_decision_of_who_was_stopped_is_taken_back_if_nobody_decided_since(tmp_path: Path) -> None:
    """The successor has only begun: the number is free, so the store takes the entry; its writer takes it back itself."""
    storage = StorageSettings(uri=str(tmp_path / "store"))
    with contender("run", storage, mark="A", stop_at=REGISTRY_ENTRY) as first:
        first.expect("begun")
        first.go_on()
        first.expect("sealed")
        first.expect("stopping")
        first.wait_stopped()
        with contender("run", storage, mark="B") as second:
            second.expect("begun")
            first.wake()
            assert "Lease of demo was lost" in first.expect("failed LeaseHeldError")
            second.go_on()
            second.expect("sealed")
            second.expect("promoted 3")
            assert second.ended() == 0
    assert [found[:2] for found in history(opened(storage))] == [(1, "promote"), (2, "retract"), (3, "promote")]


@needs_namespaces
@pytest.mark.parametrize("holder_inside", [True, False])
def test_a_second_pid_namespace_admits_nobody(tmp_path: Path, holder_inside: bool) -> None:
    """One host name, one boot, two sets of process numbers, as with ``docker compose run``."""
    from lease_processes import NEW_NAMESPACE

    storage = StorageSettings(uri=str(tmp_path / "store"))
    inside, outside = (NEW_NAMESPACE, ()) if holder_inside else ((), NEW_NAMESPACE)
    with contender("hold", storage, before=inside) as holder:
        holder.expect("begun")
        with contender("try", storage, before=outside) as other:
            assert "is held by process" in other.expect("failed LeaseHeldError")
        holder.go_on()
        holder.expect("still mine")
        assert holder.ended() == 0
    with contender("try", storage, before=outside) as other:
        other.expect("admitted")


@pytest.mark.parametrize("clock", ["+3d", "-3d"])
@pytest.mark.parametrize("whose", ["holder", "other"])
def test_clocks_that_differ_admit_nobody_and_keep_nobody_out(tmp_path: Path, clock: str, whose: str) -> None:
    storage = StorageSettings(uri=str(tmp_path / "store"))
    (tmp_path / "clock").write_text(clock)
    env = faked_clock(tmp_path / "clock")
    with contender("hold", storage, env=env if whose == "holder" else {}) as holder:
        holder.expect("begun")
        with contender("try", storage, env=env if whose == "other" else {}) as other:
            other.expect("failed LeaseHeldError")
        holder.process.kill()
        holder.process.wait()
        with contender("try", storage, env=env if whose == "other" else {}) as other:
            other.expect("admitted")


def test_a_clock_that_is_stepped_back_and_forth_ends_no_lease(tmp_path: Path) -> None:
    """While a run goes on, and while another one waits for it."""
    storage, clock = StorageSettings(uri=str(tmp_path / "store")), tmp_path / "clock"
    clock.write_text("+0")
    env = faked_clock(clock)
    with contender("hold", storage, env=env) as holder:
        holder.expect("begun")
        for step in ("+61", "-61", "+2", "+3d", "-3d", "+0"):
            clock.write_text(step)
            with contender("try", storage, env=env) as other:
                other.expect("failed LeaseHeldError")
        with contender("hold", storage, env=env) as waiting:
            for step in ("+61", "-61", "+0"):
                clock.write_text(step)
                assert waiting.process.poll() is None
                with contender("try", storage, env=env) as other:
                    other.expect("failed LeaseHeldError")
            holder.go_on()
            holder.expect("still mine")
            waiting.expect("begun")
            waiting.go_on()
            waiting.expect("still mine")


def test_waiting_commands_and_scheduled_ones(tmp_path: Path) -> None:
    """A scheduled run takes over from who is silent for as long as it takes, and is skipped by who renews."""
    storage = StorageSettings(uri=str(tmp_path / "store"))
    with contender("hold", storage) as holder:
        holder.expect("begun")
        with pytest.raises(LeaseHeldError), Lease.hold(opened(storage), "demo", wait=False):
            pytest.fail("two holders")
        holder.stop()
        with Lease.hold(opened(storage), "demo", wait=False) as lease:
            assert lease.replaced_silent
            holder.wake()
            holder.go_on()
            holder.expect("failed LeaseHeldError")
            lease.check()
