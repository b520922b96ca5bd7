"""The trial before the first write: what a store refuses is said then, and nothing is left there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.storage.try_writes import try_writes
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError
from ts4s_core.settings import StorageSettings


def store_at(uri: object, **given: Any) -> ArtifactStore:
    return ArtifactStore.open(StorageSettings.model_validate({"uri": str(uri), **given}))


def test_a_folder_that_is_there_and_one_that_is_not_are_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("kept")
    try_writes(store_at(tmp_path / "there").storage)
    try_writes(store_at(tmp_path / "new" / "deep").storage)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["there", "there/file"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A device with no room left."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a device of its own cannot be mounted here: {mounted.stderr.strip()}")
    try:
        (place / "filler").write_bytes(b"\0" * 16_384)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_device_is_refused(full: Path) -> None:
    with pytest.raises(SettingsError, match=rf"storage\.uri {full} is not usable: cannot .*No space left on device"):
        try_writes(store_at(full).storage)
    assert [path.name for path in full.iterdir()] == ["filler"]


def test_a_device_that_cannot_be_written_to_is_refused(full: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full)], check=True)
    with pytest.raises(SettingsError, match=r"cannot make a folder in .*Read-only file system"):
        try_writes(store_at(full / "store").storage)


@pytest.mark.parametrize(
    ("name", "action"), [("fsync", "create a file that must not exist yet"), ("rename", "rename a folder"), ("unlink", "create")]
)
def test_what_a_device_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, action: str) -> None:
    """Errors that no device here gives: an I/O error of one kind of call."""

    def broken(*_given: object, **_named: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, name, broken)
    with pytest.raises(SettingsError, match=rf"cannot {action}.*Input/output error"):
        try_writes(store_at(tmp_path).storage)


@pytest.mark.parametrize("server", ["moto_server", "rclone_server"])
def test_an_object_store_is_left_as_it_was(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    given = request.getfixturevalue(server).settings(tmp_path / "cache")
    store = ArtifactStore.open(given)
    store.storage.write_bytes("there", b"kept")
    try_writes(store.storage)
    assert [entry.path for entry in store.storage.list("", temporary=True)] == ["there"]
    assert store.storage.unfinished_uploads() == []
    assert Path(store.try_cache()).parent == tmp_path / "cache"
    assert not (tmp_path / "cache").exists()


def test_a_bucket_that_is_not_there_and_keys_that_are_wrong_are_refused(rclone_server: Any, tmp_path: Path) -> None:
    given = rclone_server.settings(tmp_path / "cache")
    wrong = given.model_copy(update={"secret": type(given.secret)("another-secret-key-0123456789")})
    with pytest.raises(SettingsError, match=r"is not usable: this key has no right to delete objects"):
        try_writes(ArtifactStore.open(wrong).storage)


def test_a_cache_that_cannot_be_written_is_named(rclone_server: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    given = rclone_server.settings(tmp_path / "cache")
    with pytest.raises(SettingsError, match=rf"cache folder {re.escape(str(tmp_path))}/cache.* Set storage\.cache_dir"):
        ArtifactStore.open(given).try_cache()
