"""The store on real S3 servers: one that has conditional writes and one that has not."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ConflictError, IntegrityError, LeaseHeldError, NotFoundError, StoreError
from ts4s_core.settings import StorageSettings

SUB = "sub/model.safetensors"
KEY = "1a2b3c4d" + "0" * 56


@pytest.fixture(params=["moto_server", "rclone_server"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(server: Any, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(server.settings(tmp_path / "cache"))


def publish(store: ArtifactStore, data: bytes = b"weights", kind: str = "trained") -> ArtifactRef:
    with store.begin(kind, "demo", KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("sub/model.safetensors", data)
        writer.add_json("a.json", {"a": 1})
        writer.seal()
    return writer.ref


def test_looking_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.newest("trained", "demo") is None
    assert store.find("trained", "demo", KEY) is None
    assert Registry(store).alias("demo") is None
    with pytest.raises(NotFoundError, match="has no versions"):
        store.manifest(ArtifactRef("model", "demo", "20261121T041500.123456Z-1a2b3c4d"))
    assert store.storage.list() == []
    assert list(tmp_path.iterdir()) == []


def test_conditional_writes_are_found_out_without_a_trace(server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = server.settings(tmp_path / "cache")
    store = ArtifactStore.open(settings)
    with caplog.at_level(logging.WARNING):
        answers = [store.storage.conditional_writes for _ in range(3)]
    assert len(set(answers)) == 1
    assert store.storage.fs.find(settings.uri.removeprefix("s3://").partition("/")[0]) == []
    assert sum("no conditional writes" in record.message for record in caplog.records) == (0 if answers[0] else 1)


def test_each_server_is_known_for_what_it_is(moto_server: Any, rclone_server: Any, tmp_path: Path) -> None:
    assert ArtifactStore.open(moto_server.settings(tmp_path)).storage.conditional_writes is True
    assert ArtifactStore.open(rclone_server.settings(tmp_path)).storage.conditional_writes is False


def test_publish_find_and_read_back(store: ArtifactStore, tmp_path: Path) -> None:
    ref = publish(store)
    assert store.find("trained", "demo", KEY) == store.newest("trained", "demo") == ref
    assert store.kinds_and_names() == [("trained", "demo")]
    assert [entry.path for entry in store.storage.list()] == [
        f"{ref}/a.json",
        f"{ref}/manifest.json",
        f"{ref}/sub/model.safetensors",
    ]
    folder = store.local(ref)
    assert (folder / "sub/model.safetensors").read_bytes() == b"weights"
    assert folder.is_relative_to(tmp_path / "cache")
    with store.open_file(ref, "a.json") as file:
        assert file.read() == b'{\n "a": 1\n}\n'


def test_create_is_exclusive(store: ArtifactStore) -> None:
    store.storage.create("registry/demo/00000001.json", b"1")
    with pytest.raises(ConflictError):
        store.storage.create("registry/demo/00000001.json", b"2")
    assert store.storage.read_bytes("registry/demo/00000001.json") == b"1"


def test_racing_creators_have_one_winner(rclone_server: Any, tmp_path: Path) -> None:
    settings = rclone_server.settings(tmp_path / "cache")
    stores = [ArtifactStore.open(settings) for _ in range(4)]
    won: list[int] = []

    def create(number: int) -> None:
        try:
            stores[number].storage.create("registry/demo/00000001.json", str(number).encode())
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert stores[0].storage.read_bytes("registry/demo/00000001.json") == str(won[0]).encode()
    assert [entry.path for entry in stores[0].storage.list()] == ["registry/demo/00000001.json"]


def test_promote_and_roll_back(store: ArtifactStore) -> None:
    first, second = publish(store), publish(store, b"others")
    registry = Registry(store)
    registry.decide("demo", to=first.version, why="first", metrics={"accuracy": 0.5})
    registry.decide("demo", to=second.version, why="better", metrics={"accuracy": 0.75})
    assert registry.resolve("demo@champion") == second
    registry.rollback("demo", why="worse in use")
    assert registry.resolve("demo") == first
    assert [(entry.number, entry.action, entry.before, entry.to) for entry in registry.entries("demo")] == [
        (1, "promote", None, first.version),
        (2, "promote", first.version, second.version),
        (3, "rollback", second.version, first.version),
    ]


def test_failed_publish_leaves_nothing(store: ArtifactStore) -> None:
    writer = store.begin("trained", "demo", KEY, settings={}, upstream={})
    writer.add_bytes("a.json", b"1")
    assert store.versions("trained", "demo") == []
    writer.abandon()
    assert store.storage.list() == []


@pytest.mark.parametrize("damage", [b"weighty", b"weig", None])
def test_damage_in_the_store_is_refused_by_name(store: ArtifactStore, tmp_path: Path, damage: bytes | None) -> None:
    ref = publish(store)
    if damage is None:
        store.storage.delete(f"{ref}/sub/model.safetensors")
    else:
        store.storage.write_bytes(f"{ref}/sub/model.safetensors", damage)
    with pytest.raises(IntegrityError, match=r"sub/model.safetensors is"):
        store.local(ref)
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []


def test_damage_in_the_cache_is_mended(store: ArtifactStore) -> None:
    ref = publish(store)
    path = store.local_file(ref, "sub/model.safetensors")
    path.write_bytes(b"weighty")
    assert store.local_file(ref, "sub/model.safetensors").read_bytes() == b"weights"


def test_large_file_goes_up_in_parts_and_a_download_is_resumed(store: ArtifactStore, tmp_path: Path) -> None:
    data = os.urandom(2**20) * 37
    local = tmp_path / "big.safetensors"
    local.write_bytes(data)
    with store.begin("model", "big", KEY, settings={}, upstream={}) as writer:
        entry = writer.add_file(local, "model.safetensors")
        writer.seal()
    assert entry.size == len(data)
    target = store.local_file(writer.ref, "model.safetensors")
    assert target.read_bytes() == data
    assert [path.name for path in target.parent.iterdir()] == ["model.safetensors"]
    (lock,) = (tmp_path / "cache").rglob("arriving/*.lock")
    part = lock.with_suffix("")
    for beginning in (data[: 9 * 2**20], b"not these bytes", data + b"too long"):
        target.unlink(missing_ok=True)
        part.write_bytes(beginning)
        assert store.local_file(writer.ref, "model.safetensors").read_bytes() == data
        assert not part.exists()


def test_lease_is_held_by_one(store: ArtifactStore) -> None:
    with Lease.hold(store, "demo", wait=False) as lease:
        lease.check()
        with pytest.raises(LeaseHeldError, match=f"held by process {os.getpid()} on"), Lease.hold(store, "demo", wait=False):
            pytest.fail("two holders")
    with Lease.hold(store, "demo", wait=False):
        pass
    assert store.storage.list() == []


def test_deleted_version_is_gone(store: ArtifactStore) -> None:
    ref = publish(store)
    store.delete(ref)
    assert store.versions("trained", "demo") == []
    assert store.storage.list() == []


def test_wrong_keys_are_told_without_showing_them(rclone_server: Any, tmp_path: Path) -> None:
    good = rclone_server.settings(tmp_path / "cache")
    bad = StorageSettings.model_validate(
        {**good.model_dump(), "key": "SOMEOTHERKEY12", "secret": "some-other-secret-value", "cache_dir": str(tmp_path)}
    )
    with pytest.raises(StoreError) as refused:
        ArtifactStore.open(bad).storage.write_bytes("a.json", b"1")
    assert "SOMEOTHERKEY12" not in str(refused.value)
    assert "some-other-secret-value" not in str(refused.value)


def test_missing_bucket_is_named(moto_server: Any, tmp_path: Path) -> None:
    store = ArtifactStore.open(moto_server.settings(tmp_path, "no-such-bucket"))
    assert store.newest("trained", "demo") is None
    with pytest.raises((StoreError, NotFoundError), match="no-such-bucket"):
        publish(store)


def test_store_is_verified_and_collected(store: ArtifactStore) -> None:
    refs = [publish(store) for _ in range(2)]
    Registry(store).decide("demo", to=refs[1].version, why="better")
    left = store.begin("model", "demo", KEY, settings={}, upstream={})
    left.add_bytes("a.json", b"1")
    assert [row.damages for row in verify(store)] == [()] * 3
    later = time.time() + 48 * 3600
    expected = [str(left.ref), str(refs[0])]
    assert [item.path for item in collect(store, dry_run=True, keep_last=1, now=later)] == expected
    assert [item.path for item in collect(store, dry_run=False, keep_last=1, now=later)] == expected
    assert store.versions("trained", "demo") == [refs[1]]
    store.storage.write_bytes(f"{refs[1]}/{SUB}", b"weighty")
    (damage,) = [damage for row in verify(store) for damage in row.damages]
    assert damage.path == f"{refs[1]}/{SUB}"
