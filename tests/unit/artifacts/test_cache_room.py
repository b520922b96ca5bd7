"""A host's cache stays within its size, and a process that holds a file's lock for ever holds nobody else up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ts4s_core.artifacts import cache as cache_module
from ts4s_core.artifacts.cache_room import ARRIVING, make_room, note_use
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import StorageSettings

DAY_S = 24 * 3600.0
LIMIT_S = 60
HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "wb")
fcntl.flock(lock, fcntl.LOCK_EX)
sys.stdout.write("held")
sys.stdout.flush()
time.sleep(300)
"""


def store_with(tmp_path: Path, versions: int, **given: object) -> tuple[ArtifactStore, list[ArtifactRef]]:
    """A store that is no folder of this host, with versions of 1,000 bytes."""
    settings = {"uri": f"memory://{uuid.uuid4().hex}", "cache_dir": str(tmp_path / "cache"), **given}
    store, refs = ArtifactStore.open(StorageSettings.model_validate(settings)), []
    for number in range(versions):
        with store.begin("trained", "demo", f"{number:08d}" * 8, settings={}, upstream={}) as writer:
            writer.add_bytes("model.safetensors", bytes([number]) * 1_000)
            writer.seal()
        refs.append(writer.ref)
    return store, refs


def used(path: Path, days_ago: float) -> None:
    moment = time.time() - days_ago * DAY_S
    os.utime(path, (moment, moment))


def test_what_was_read_longest_ago_goes_until_the_rest_fits(tmp_path: Path) -> None:
    store, refs = store_with(tmp_path, 4)
    files = [store.local_file(ref, "model.safetensors") for ref in refs]
    (root,) = (tmp_path / "cache").iterdir()
    for file, days in zip(files, (5, 9, 3, 0.5), strict=True):
        used(file, days)
    assert make_room(root, most_bytes=4_000) == 0
    assert make_room(root, most_bytes=2_500) == 2_000
    assert [file.exists() for file in files] == [False, False, True, True]
    assert make_room(root, most_bytes=0) == 1_000, "what was read within a day stays"
    assert [file.exists() for file in files] == [False, False, False, True]
    assert store.local_file(refs[1], "model.safetensors").read_bytes() == bytes([1]) * 1_000, "it comes again"


def test_reading_counts_as_use_where_the_device_notes_none(tmp_path: Path) -> None:
    store, (ref,) = store_with(tmp_path, 1)
    file = store.local_file(ref, "model.safetensors")
    used(file, 5)
    before = file.stat().st_mtime_ns
    assert store.local_file(ref, "model.safetensors") == file
    assert time.time() - file.stat().st_atime < LIMIT_S
    assert file.stat().st_mtime_ns == before
    note_use(tmp_path / "none")


def test_a_store_keeps_its_own_cache_within_the_setting(tmp_path: Path) -> None:
    store, refs = store_with(tmp_path, 3, cache_gb=2.5e-6)
    files = [store.local_file(ref, "model.safetensors") for ref in refs[:2]]
    for file in files:
        used(file, 5)
    again = ArtifactStore(store.storage, tmp_path / "cache")
    again.local_file(refs[2], "model.safetensors")
    assert sorted(file.exists() for file in files) == [False, True]


def test_beginnings_that_nobody_goes_on_with_go(tmp_path: Path) -> None:
    folder = tmp_path / ARRIVING
    folder.mkdir()
    for name in ("old", "held", "young"):
        (folder / name).write_bytes(b"part")
        (folder / f"{name}.lock").touch()
    for name in ("old", "held"):
        used(folder / name, 2)
        used(folder / f"{name}.lock", 2)
    command = [sys.executable, "-c", HOLD, str(folder / "held.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(4) == "held"
        used(folder / "held.lock", 2)
        make_room(tmp_path, most_bytes=0)
        holder.kill()
    assert sorted(path.name for path in folder.iterdir()) == ["held", "held.lock", "young", "young.lock"]


def test_a_stuck_holder_of_a_lock_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (ref,) = store_with(tmp_path, 1)
    lock = store._cache.arriving(ref, store.manifest(ref).file("model.safetensors")).with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    monkeypatch.setattr(cache_module, "STUCK_S", 1.0)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(4) == "held"
        began = time.monotonic()
        assert store.local_file(ref, "model.safetensors").read_bytes() == bytes(1_000)
        assert 1.0 <= time.monotonic() - began < LIMIT_S
        holder.kill()
    assert [path.name for path in lock.parent.iterdir()] == [lock.name]
