"""Leases: one holder, dead owners replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_for

from ts4s_core.artifacts.leases import lease as leases
from ts4s_core.artifacts.leases.lease import Claim, Lease, claims, this_host
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import LeaseHeldError, StoreError


def plant(store: ArtifactStore, **changes: object) -> str:
    now = time.time()
    values = {"token": "0-planted", "host": "elsewhere/boot", "pid": 7, "started": 1.0, "since": now, "renewed": now, "number": 1}
    store.storage.write_bytes("leases/demo/0-planted.json", json.dumps(values | changes).encode())
    return "leases/demo/0-planted.json"


def test_second_holder_is_told_who_holds_it(store: ArtifactStore, tmp_path: Path) -> None:
    with Lease.hold(store, "demo") as held:
        held.check()
        with pytest.raises(LeaseHeldError, match=f"held by process {os.getpid()} on"), Lease.hold(store, "demo", wait=False):
            pytest.fail("two holders")
        with Lease.hold(store, "other", wait=False):
            pass
    assert list(tmp_path.rglob("*.json")) == []


def test_dead_owner_on_this_host_is_replaced_at_once(store: ArtifactStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    plant(store, host=this_host(), pid=process.pid, started=123.0)
    started = time.monotonic()
    with Lease.hold(store, "demo", wait=False):
        assert len(claims(store.storage, "demo")) == 1
    assert time.monotonic() - started < 2


def test_process_id_used_again_is_no_owner(store: ArtifactStore) -> None:
    plant(store, host=this_host(), pid=os.getpid(), started=123.0)
    with Lease.hold(store, "demo", wait=False):
        pass


def test_owner_elsewhere_counts_for_sixty_seconds(store: ArtifactStore) -> None:
    plant(store, renewed=time.time() - 55)
    with pytest.raises(LeaseHeldError, match="process 7 on elsewhere since"), Lease.hold(store, "demo", wait=False):
        pytest.fail("two holders")
    plant(store, renewed=time.time() - 61)
    with Lease.hold(store, "demo", wait=False):
        pass


def test_waiting_ends_when_the_holder_leaves(store: ArtifactStore) -> None:
    path = plant(store)
    timer = threading.Timer(0.5, lambda: store.storage.delete(path))
    timer.start()
    with Lease.hold(store, "demo"):
        assert not store.storage.exists(path)
    timer.join()


def test_never_two_holders(store: ArtifactStore) -> None:
    inside, most, turns = [0], [0], []

    def work(number: int) -> None:
        for _ in range(5):
            with Lease.hold(store, "demo"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1
                turns.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert sorted(turns) == sorted([0, 1, 2, 3] * 5)


def test_a_claim_that_comes_back_late_is_no_lease_if_there_are_others(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped between its look at the claim and the writing of it, and another went on meanwhile."""
    monkeypatch.setattr(leases, "RENEW_S", 0.02)

    def late(held: Lease) -> bool:
        held._claim = replace(held._claim, renewed=time.time() - 61)
        return held._lost.is_set()

    with Lease.hold(store, "demo") as held:
        assert not wait_for(lambda: late(held), limit_s=0.5)
        held.check()
        plant(store, number=2)
        assert wait_for(lambda: late(held))
        with pytest.raises(LeaseHeldError, match="was lost"):
            held.check()
    assert [claim.number for claim in claims(store.storage, "demo")] == [2]


def test_a_lease_that_the_store_does_not_renew_is_lost(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store still answers what it is asked: others take the lease after a minute, so the holder must know by then."""
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    monkeypatch.setattr(leases, "EXPIRES_S", 1.0)

    def refuse(path: str, data: bytes) -> None:
        raise StoreError(f"Cannot write {path}: expected a store that takes {len(data)} bytes, got one that is read-only")

    with Lease.hold(store, "demo") as held:
        monkeypatch.setattr(store.storage, "write_bytes", refuse)
        begun = time.monotonic()
        assert wait_for(held._lost.is_set)
        assert 0.5 < time.monotonic() - begun < 5
        with pytest.raises(LeaseHeldError, match="was lost"):
            held.check()
        assert not any(claim.alive for claim in claims(store.storage, "demo"))


def test_lost_lease_is_noticed_and_not_taken_back(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    with Lease.hold(store, "demo") as held:
        assert wait_for(lambda: all(claim.renewed > claim.since for claim in claims(store.storage, "demo")))

        def lost() -> bool:
            """Deleted until it is noticed: a renewal on its way writes the claim once more."""
            for claim in claims(store.storage, "demo"):
                store.storage.delete(f"leases/demo/{claim.token}.json")
            try:
                held.check()
            except LeaseHeldError:
                return True
            return False

        assert wait_for(lost)
        with pytest.raises(LeaseHeldError, match="was lost"):
            held.check()
        assert claims(store.storage, "demo") == []


def test_claim_says_no_more_than_it_must() -> None:
    claim = Claim("t", "host.example/boot", 7, 1.0, 0.0, 0.0, 1)
    assert str(claim) == "process 7 on host.example since 1970-01-01T00:00:00Z"
