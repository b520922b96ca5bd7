"""Verification of a whole store, and garbage collection."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from ts4s_core.artifacts.leases.lease import COLLECTION_LEASE, Lease, Limits
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.staging import Reservation, reservation_of
from ts4s_core.artifacts.storage.storage import RESERVATION, Storage
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep import collect as collecting
from ts4s_core.artifacts.upkeep.collect import Collected, collect
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import KINDS, TEMPORARY, ArtifactRef
from ts4s_core.errors import IntegrityError, NotFoundError
from ts4s_core.settings import StorageSettings

KEY = "1a2b3c4d" + "0" * 56
DAY = 24 * 3600.0


def publish(store: ArtifactStore, kind: str, name: str = "demo", **upstream: ArtifactRef) -> ArtifactRef:
    with store.begin(kind, name, KEY, settings={}, upstream=upstream) as writer:
        writer.add_bytes("model.safetensors", b"weights")
        writer.add_bytes("a/b.parquet", b"rows")
        writer.seal()
    return writer.ref


def damages(store: ArtifactStore, name: str | None = None) -> list[tuple[str, str]]:
    return [(damage.path, damage.problem) for row in verify(store, name) for damage in row.damages]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["model.safetensors", "a/b.parquet", "manifest.json"])
def test_one_flipped_bit_is_found_by_name(store: ArtifactStore, kind: str, file: str) -> None:
    ref = publish(store, kind)
    assert damages(store) == []
    path = store.local(ref) / file
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    ((found, problem),) = damages(store)
    assert found == f"{ref}/{file}"
    assert "damaged" in problem


def test_missing_cut_and_planted_files_are_found(store: ArtifactStore) -> None:
    ref = publish(store, "model")
    folder = store.local(ref)
    (folder / "model.safetensors").unlink()
    (folder / "a/b.parquet").write_bytes(b"r")
    (folder / "planted.pkl").write_bytes(b"\x80")
    assert damages(store) == [
        (f"{ref}/a/b.parquet", "is damaged: expected 4 bytes, got 1"),
        (f"{ref}/model.safetensors", "is missing: expected 7 bytes"),
        (f"{ref}/planted.pkl", "is not in the manifest"),
    ]


def test_lineage_is_followed(store: ArtifactStore) -> None:
    dataset = publish(store, "dataset", "data")
    other = publish(store, "dataset", "other")
    model = publish(store, "model", dataset=dataset)
    trained = publish(store, "trained", model=model)
    assert [row.ref for row in verify(store, "demo")] == [str(dataset), str(model), str(trained)]
    assert str(other) in [row.ref for row in verify(store)]
    store.delete(dataset)
    assert damages(store, "demo") == [(str(dataset), f"is missing, and {model} was made from it")]
    with pytest.raises(NotFoundError, match=r"Nothing in .* is named nobody"):
        verify(store, "nobody")


def test_registry_is_verified(store: ArtifactStore) -> None:
    refs = [publish(store, "trained") for _ in range(3)]
    for ref in refs:
        Registry(store).decide("demo", to=ref.version, why="better")
    assert damages(store) == []
    store.delete(refs[2])
    assert damages(store) == [(str(refs[2]), "is missing, and demo@champion points to it")]
    store.storage.delete("registry/demo/00000002.json")
    assert ("registry/demo", "has gaps: entries 2 are missing") in damages(store)


def paths(found: list[Collected]) -> list[str]:
    return [item.path for item in found]


def gc(store: ArtifactStore, *, dry_run: bool = False, keep_last: int = 1, later: float = 2 * DAY) -> list[Collected]:
    return collect(store, dry_run=dry_run, keep_last=keep_last, now=time.time() + later)


def test_only_what_nothing_needs_goes(store: ArtifactStore) -> None:
    datasets = [publish(store, "dataset", "data") for _ in range(3)]
    models = [publish(store, "model", dataset=datasets[0]), publish(store, "model"), publish(store, "model")]
    trained = [publish(store, "trained", model=models[0]), *(publish(store, "trained") for _ in range(3))]
    reports = [publish(store, "report", trained=ref) for ref in trained]
    Registry(store).decide("demo", to=trained[0].version, why="first")
    Registry(store).decide("demo", to=trained[1].version, why="better")
    assert gc(store, later=0.5 * DAY) == []
    expected = [str(datasets[1]), str(models[1]), str(reports[2]), str(trained[2])]
    before = store.storage.list()
    assert paths(gc(store, dry_run=True)) == expected
    assert store.storage.list() == before
    assert paths(gc(store)) == expected
    assert damages(store) == []
    assert gc(store) == []
    assert store.versions("trained", "demo") == [trained[0], trained[1], trained[3]]


def test_keep_last_counts_by_kind_and_name(store: ArtifactStore) -> None:
    refs = [publish(store, "trained") for _ in range(4)]
    other = publish(store, "trained", "other")
    assert paths(gc(store, keep_last=3)) == [str(refs[0])]
    assert paths(gc(store, keep_last=0)) == [str(ref) for ref in (*refs[1:], other)]


def test_half_written_goes_after_the_grace_time(store: ArtifactStore, tmp_path: Path) -> None:
    writer = store.begin("model", "demo", KEY, settings={}, upstream={})
    writer.add_bytes("model.safetensors", b"1234")
    stray = tmp_path / "store" / "registry" / "demo" / f"{TEMPORARY}abc"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"12")
    assert gc(store, later=0) == []
    assert [(item.path, item.bytes) for item in gc(store)] == [
        (f"model/demo/{TEMPORARY}{writer.ref.version}", 4),
        (f"registry/demo/{TEMPORARY}abc", 2),
    ]
    assert not stray.exists()
    assert store.storage.list("", temporary=True) == []


@pytest.mark.parametrize("uri", ["folder", "memory"])
def test_a_version_that_is_sealed_while_a_collection_looks_is_kept(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "store") if uri == "folder" else f"memory://{tmp_path.name}-sealed"
    store = ArtifactStore.open(StorageSettings(uri=place, cache_dir=str(tmp_path / "cache")))
    left = store.begin("checkpoint", "other", KEY, settings={}, upstream={})  # so that there is something to collect
    left.add_bytes("model.safetensors", b"1")
    with Lease.hold(store, "demo"):
        writer = store.begin("checkpoint", "demo", KEY, settings={}, upstream={})
        writer.add_bytes("model.safetensors", b"1")

        looks = []

        def sealed_meanwhile(storage: Storage, ref: ArtifactRef) -> Reservation | None:
            looks.append(ref)
            if ref == writer.ref and looks.count(ref) == 2:  # at the second, others wait for the collection
                writer.seal()
            return reservation_of(storage, ref)

        monkeypatch.setattr(collecting, "reservation_of", sealed_meanwhile)
        assert [ArtifactRef.parse(path.replace(TEMPORARY, "")) for path in paths(gc(store))] == [left.ref]
    assert looks.count(writer.ref) == 2
    assert store.manifest(writer.ref).files[0].size == 1


def test_a_version_that_is_just_being_begun_is_kept(store: ArtifactStore, tmp_path: Path) -> None:
    """In a folder its place is taken before it says under which lease: a slow disk, and a collection comes in between."""
    looking = ArtifactStore.open(store.storage.settings)
    store.storage.limits = looking.storage.limits = Limits(expires_s=60.0, renew_s=0.1, poll_s=0.05)
    files = store.storage._files
    real, found = files.write, []

    def write(path: str, data: bytes) -> None:
        if path.endswith(RESERVATION):
            on_its_way = tmp_path / "store" / f"{path}-new"
            on_its_way.write_bytes(data)
            found.append(paths(collect(looking, dry_run=False, grace_s=0.0, now=time.time() + 1)))
            on_its_way.unlink()
        real(path, data)

    with Lease.hold(store, "demo"):
        files.write = write  # type: ignore[method-assign]
        with store.begin("checkpoint", "demo", KEY, settings={}, upstream={}) as writer:
            writer.add_bytes("model.safetensors", b"1")
            writer.seal()
    assert found == [[]]
    assert store.sealed(writer.ref)


def test_running_job_keeps_what_it_may_need(store: ArtifactStore) -> None:
    old = [publish(store, "model") for _ in range(2)]
    store.storage.limits = Limits(renew_s=0.1)
    with Lease.hold(store, "demo"):
        writer = store.begin("trained", "demo", KEY, settings={}, upstream={})
        writer.add_bytes("model.safetensors", b"1")
        assert gc(store) == []
        writer.seal()
    assert paths(gc(store)) == [str(old[0])]


def test_leases_of_the_dead_go(store: ArtifactStore) -> None:
    claim = {"token": "t", "host": "elsewhere/x", "pid": 1, "started": 1.0, "since": 1.0, "renewed": 1.0, "number": 1}
    store.storage.write_bytes("leases/demo/t.json", json.dumps(claim).encode())
    store.storage.limits = Limits(expires_s=0.5, renew_s=0.1, poll_s=0.05)
    assert paths(gc(store)) == ["leases/demo/t.json"]
    assert store.storage.list() == []


def test_nothing_goes_while_a_manifest_is_damaged(store: ArtifactStore) -> None:
    refs = [publish(store, "model") for _ in range(3)]
    (store.local(refs[1]) / "manifest.json").write_bytes(b"{")
    with pytest.raises(IntegrityError):
        gc(store)
    assert len(store.versions("model", "demo")) == 3


def test_progress_is_told(store: ArtifactStore) -> None:
    ref, seen = publish(store, "model"), []
    verify(store, progress=lambda stage, fields: seen.append((stage, fields["version"], fields["artifact"])))
    assert seen == [("verify", 1, str(ref))]


def test_checkpoints_of_a_finished_training_are_not_kept(store: ArtifactStore) -> None:
    left, running = publish(store, "checkpoint"), publish(store, "checkpoint", "other")
    publish(store, "trained")
    assert paths(gc(store, later=0)) == []
    assert paths(gc(store)) == [str(left)]
    assert store.versions("checkpoint", "other") == [running]


def test_a_run_and_a_collection_do_not_overlap(store: ArtifactStore) -> None:
    refs, ended = [publish(store, "model") for _ in range(3)], threading.Event()

    def run() -> None:
        with Lease.hold(store, "demo"):
            ended.set()

    runner = threading.Thread(target=run)
    with Lease.hold(store, COLLECTION_LEASE):
        runner.start()
        # The run's claim is written, so that a collection that looks now leaves everything alone; but the run waits.
        while not store.storage.list("leases/demo"):
            time.sleep(0.01)
        assert not ended.wait(0.5)
    runner.join(10)
    assert ended.is_set()
    assert store.versions("model", "demo") == refs
    assert store.storage.list("leases") == []
