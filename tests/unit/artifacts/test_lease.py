"""Leases: one holder, dead owners replaced, silent ones fenced out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from waiting import wait_for

from ts4s_core.artifacts.leases.claims import BEAT, CHOOSING, CLAIM, path_of
from ts4s_core.artifacts.leases.identity import Owner, start_ticks, this_owner
from ts4s_core.artifacts.leases.lease import Lease, Limits, claims, holder, live_claims
from ts4s_core.artifacts.leases.watch import Watch
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore, stage_file
from ts4s_core.errors import LeaseHeldError, StoreError
from ts4s_core.settings import StorageSettings

QUICK = Limits(expires_s=1.0, renew_s=0.1, poll_s=0.05)
ELSEWHERE = Owner("elsewhere", "another-boot", "pid:[1]", 7, 1)
KEY = "1a2b3c4d" + "0" * 56


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return opened(tmp_path)


def opened(tmp_path: Path, limits: Limits = QUICK) -> ArtifactStore:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    store.storage.limits = limits
    return store


def plant(store: ArtifactStore, owner: Owner, *, number: int = 1, since: float = 1.0, ending: str = CLAIM) -> str:
    record = {"token": "planted", **asdict(owner), "since": since, "number": number, "doing": "train"}
    path = path_of("demo", "planted", ending)
    store.storage.write_bytes(path, json.dumps(record).encode())
    return path


def plant_old(store: ArtifactStore, **changes: object) -> str:
    """A claim as ts4s wrote it before claims named a pid namespace."""
    values = {"token": "t", "host": "elsewhere/boot", "pid": 7, "started": 1.0, "since": 1.0, "renewed": 1.0, "number": 1}
    store.storage.write_bytes("leases/demo/t.json", json.dumps(values | changes).encode())
    return "leases/demo/t.json"


def renewing(store: ArtifactStore, path: str) -> threading.Event:
    """Let a planted claim live until the event is set."""
    ended = threading.Event()
    beat = path.removesuffix(CLAIM) + BEAT

    def renew() -> None:
        for number in range(10_000):
            if ended.wait(0.1):
                return
            store.storage.write_bytes(beat, str(number).encode())

    threading.Thread(target=renew, daemon=True).start()
    return ended


def test_second_holder_is_told_who_holds_it(store: ArtifactStore, tmp_path: Path) -> None:
    with Lease.hold(store, "demo", doing="retrain") as held:
        held.check()
        other = opened(tmp_path)
        said = rf"held by process {os.getpid()} on \S+ \(retrain\) since \d{{4}}-"
        with pytest.raises(LeaseHeldError, match=said), Lease.hold(other, "demo", wait=False):
            pytest.fail("two holders")
        with Lease.hold(other, "other", wait=False):
            pass
    assert list(tmp_path.rglob("*.json")) == []
    assert not (tmp_path / "store" / "leases").exists()


def test_dead_owner_in_this_namespace_is_replaced_at_once(store: ArtifactStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ticks = start_ticks(process.pid)
    assert ticks
    owner = replace(this_owner(), pid=process.pid, start_ticks=ticks)
    assert not owner.gone
    process.kill()
    # A zombie, whom nobody has waited for, has ended too.
    assert wait_for(lambda: owner.gone)
    process.wait()
    assert owner.gone
    plant(store, owner)
    started = time.monotonic()
    with Lease.hold(store, "demo", wait=False) as lease:
        assert [claim.token for claim in claims(store.storage, "demo")] == [lease.fence.token]
    assert time.monotonic() - started < QUICK.expires_s / 2


def test_process_id_used_again_is_no_owner(store: ArtifactStore) -> None:
    plant(store, replace(this_owner(), start_ticks=this_owner().start_ticks + 1))
    with Lease.hold(store, "demo", wait=False) as lease:
        assert not lease.replaced_silent


@pytest.mark.parametrize("change", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}, {"pid_namespace": ""}])
def test_of_another_boot_or_namespace_nothing_is_known(change: dict[str, str]) -> None:
    assert not replace(this_owner(), pid=2**22 + 1, start_ticks=1, **change).gone
    assert replace(this_owner(), pid=2**22 + 1, start_ticks=1).gone


@pytest.mark.parametrize("since", [1.0, 9e9], ids=["clock behind", "clock ahead"])
@pytest.mark.parametrize("old", [False, True], ids=["claim", "claim of an earlier ts4s"])
def test_owner_elsewhere_counts_until_it_was_seen_silent(store: ArtifactStore, since: float, old: bool) -> None:
    plant_old(store, since=since, renewed=since) if old else plant(store, ELSEWHERE, since=since)
    started = time.monotonic()
    with Lease.hold(store, "demo", wait=False) as lease:
        assert time.monotonic() - started >= QUICK.expires_s
        assert lease.replaced_silent
        assert [claim.token for claim in claims(store.storage, "demo")] == [lease.fence.token]


@pytest.mark.parametrize("since", [1.0, 9e9], ids=["clock behind", "clock ahead"])
def test_owner_elsewhere_that_renews_is_respected(store: ArtifactStore, since: float) -> None:
    ended = renewing(store, plant(store, ELSEWHERE, since=since))
    with pytest.raises(LeaseHeldError, match="process 7 on elsewhere"), Lease.hold(store, "demo", wait=False):
        pytest.fail("two holders")
    assert {name: [claim.pid for claim in found] for name, found in live_claims(store.storage).items()} == {"demo": [7]}
    found = holder(store.storage, "demo")
    assert found is not None
    assert found.host == "elsewhere"
    ended.set()


def test_claim_of_an_earlier_version_that_is_rewritten_lives(store: ArtifactStore) -> None:
    watch = Watch(store.storage)
    plant_old(store, renewed=1.0)
    assert [seen.renewed for seen in watch.look("demo")] == [False]
    plant_old(store, renewed=2.0)
    assert [(seen.renewed, seen.dead) for seen in watch.look("demo")] == [(True, False)]


def test_a_beat_that_cannot_be_read_neither_ends_the_watch_nor_keeps_a_claim_alive(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What an object is that its writer was stopped in the middle of, on a server that does not write at once."""
    plant(store, ELSEWHERE)
    beat = tmp_path / "store" / path_of("demo", "planted", BEAT)
    beat.symlink_to("/proc/self/mem")  # there, and reading it fails
    watch = Watch(store.storage)
    assert [(seen.renewed, seen.dead) for seen in watch.look("demo")] == [(False, False)]
    assert "planted.beat.json cannot be read, which counts as not renewed" in caplog.text
    for said, renewed in (("1", False), ("1", False), ("2", True)):
        beat.unlink()
        beat.write_text(said)
        assert [seen.renewed for seen in watch.look("demo")] == [renewed]
    beat.unlink()
    beat.symlink_to("/proc/self/mem")
    with Lease.hold(store, "demo", wait=True) as lease:
        assert [claim.token for claim in claims(store.storage, "demo")] == [lease.fence.token]


def test_a_watcher_reads_a_claim_once_and_its_beat_at_each_look(store: ArtifactStore) -> None:
    """A claim is written once; who waits must not ask a store for more than it needs."""
    path, real, read = plant(store, ELSEWHERE), store.storage.read_bytes, []
    beat = path.removesuffix(CLAIM) + BEAT
    store.storage.write_bytes(beat, b"1")
    store.storage.read_bytes = lambda asked: read.append(asked) or real(asked)  # type: ignore[method-assign, func-returns-value]
    watch = Watch(store.storage)
    assert [seen.renewed for _ in range(3) for seen in watch.look("demo")] == [False] * 3
    store.storage.write_bytes(beat, b"2")
    assert [seen.renewed for seen in watch.look("demo")] == [True]
    assert read == [path, beat, beat, beat, beat]
    for gone in (path, beat):
        store.storage.delete(gone)
    assert watch.look("demo") == []


def test_a_watcher_that_was_stopped_itself_takes_nobody_for_dead(store: ArtifactStore) -> None:
    """Only looking counts: a machine that stood still with all that is on it wakes to living claims."""
    plant(store, ELSEWHERE)
    watch = Watch(store.storage)
    watch.look("demo")
    time.sleep(QUICK.expires_s * 1.5)
    assert [seen.dead for seen in watch.look("demo")] == [False]
    assert wait_for(lambda: watch.look("demo")[0].dead)


def test_waiting_ends_when_the_holder_leaves(store: ArtifactStore) -> None:
    path = plant(store, ELSEWHERE)
    ended = renewing(store, path)

    def leave() -> None:
        time.sleep(2 * QUICK.expires_s)
        ended.set()
        store.storage.delete(path)

    leaving = threading.Thread(target=leave)
    leaving.start()
    with Lease.hold(store, "demo") as lease:
        assert not store.storage.exists(path)
        assert not lease.replaced_silent
    leaving.join()


def test_never_two_holders(tmp_path: Path) -> None:
    inside, most, turns = [0], [0], []

    def work(number: int) -> None:
        own = opened(tmp_path, Limits(poll_s=0.05))
        for _ in range(5):
            with Lease.hold(own, "demo"):
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


def test_numbers_increase(store: ArtifactStore) -> None:
    numbers = []
    for _ in range(3):
        with Lease.hold(store, "demo") as lease:
            numbers.append(lease.fence.number)
        time.sleep(0.002)
    assert numbers == sorted(set(numbers))
    plant(store, replace(this_owner(), start_ticks=1), number=2**61)
    with Lease.hold(store, "demo") as lease:
        assert lease.fence.number == 2**61 + 1


def test_who_was_taken_for_dead_while_it_chose_starts_over(store: ArtifactStore) -> None:
    """The process stands still between its number and its claim; the others do not wait for ever."""
    real, token = store.storage.write_bytes, []

    def write(path: str, data: bytes) -> None:
        if not token and path.endswith(CLAIM) and not path.endswith((BEAT, CHOOSING)):
            token.append(path)
            store.storage.delete(path.removesuffix(CLAIM) + CHOOSING)  # as whoever waited for it for 60 s does
        real(path, data)

    store.storage.write_bytes = write  # type: ignore[method-assign]
    with Lease.hold(store, "demo") as lease:
        assert lease.fence.path != token[0]
        lease.check()
        assert [claim.token for claim in claims(store.storage, "demo")] == [lease.fence.token]


def test_what_is_written_under_a_lost_lease_fails_by_name(store: ArtifactStore, tmp_path: Path) -> None:
    """Reservation, file, part, seal, decision: each looks at the lease right before."""
    local = tmp_path / "part.csv"
    local.write_bytes(b"a\n")
    with store.begin("trained", "demo", KEY, settings={}, upstream={}) as first:
        first.seal()
    executor = opened(tmp_path)
    with Lease.hold(store, "demo") as lease:
        writer = store.begin("trained", "demo", KEY, settings={}, upstream={})
        entry = writer.add_bytes("model.safetensors", b"1")
        part = writer.register(stage_file(executor.storage, writer.ref, "part.csv", local))
        store.storage.delete(lease.fence.path)
        acts = [
            lease.check,
            lambda: store.begin("trained", "demo", KEY, settings={}, upstream={}),
            lambda: writer.add_bytes("a.json", b"1"),
            lambda: writer.add_file(local, "a.csv"),
            lambda: stage_file(executor.storage, writer.ref, "b.csv", local),
            writer.seal,
            lambda: Registry(store).decide("demo", to=first.ref.version, why="too late"),
        ]
        for act in acts:
            with pytest.raises(LeaseHeldError, match="Lease of demo was lost: this process was silent for 1 s"):
                act()
        writer.abandon()
    assert (entry.size, part.size) == (1, 2)
    assert Registry(store).entries("demo") == []
    assert store.versions("trained", "demo") == [first.ref]
    assert [path.name for path in (tmp_path / "store" / "trained" / "demo").iterdir()] == [first.ref.version]
    assert not (tmp_path / "store" / "leases").exists()


def test_a_lease_that_the_store_does_not_renew_is_lost_to_who_waits(store: ArtifactStore, tmp_path: Path) -> None:
    """The store still answers what it is asked: others take the lease, and the holder finds that out at its next look."""
    real = store.storage.write_bytes

    def refuse(path: str, data: bytes) -> None:
        raise StoreError(f"Cannot write {path}: expected a store that takes {len(data)} bytes, got one that is read-only")

    with Lease.hold(store, "demo") as held:
        other = opened(tmp_path)
        store.storage.write_bytes = refuse  # type: ignore[method-assign]
        with Lease.hold(other, "demo", wait=False) as second:
            assert second.replaced_silent
            with pytest.raises(LeaseHeldError, match="was lost"):
                held.check()
            second.check()
        store.storage.write_bytes = real  # type: ignore[method-assign]


def test_a_lost_lease_is_not_taken_back(store: ArtifactStore) -> None:
    """A renewal that was under way when the claim was deleted leaves nothing that counts, and nothing that stays."""
    with Lease.hold(store, "demo") as held:
        assert wait_for(lambda: store.storage.exists(path_of("demo", held.fence.token, BEAT)))
        store.storage.delete(held.fence.path)
        assert wait_for(lambda: not store.storage.exists(path_of("demo", held.fence.token, BEAT)))
        with pytest.raises(LeaseHeldError, match="was lost"):
            held.check()
        assert claims(store.storage, "demo") == []
        with Lease.hold(opened(store.storage.folder.parent), "demo", wait=False):  # type: ignore[union-attr]
            pass


def test_with_a_lease_everything_that_was_taken_under_it_is_lost(store: ArtifactStore, tmp_path: Path) -> None:
    """Whoever took the place of a silent run does not wait once more for each lease that it held within."""
    other = opened(tmp_path)
    with Lease.hold(store, "demo") as outer, Lease.hold(store, "_train-demo") as inner:
        store.storage.delete(outer.fence.path)
        started = time.monotonic()
        with Lease.hold(other, "_train-demo", wait=False):
            assert time.monotonic() - started < QUICK.expires_s / 2
            with pytest.raises(LeaseHeldError, match="Lease of _train-demo was lost"):
                inner.check()


def test_claim_says_no_more_than_it_must(store: ArtifactStore) -> None:
    plant(store, ELSEWHERE, since=0.0)
    assert [str(claim) for claim in claims(store.storage, "demo")] == [
        "process 7 on elsewhere (train) since 1970-01-01T00:00:00Z"
    ]
