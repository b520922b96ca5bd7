"""A store on a real device that has no hard links and no rename that never replaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from linkless_folder import linkless_folder

from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.storage.folder import rename_to_free_name
from ts4s_core.artifacts.storage.try_writes import try_writes
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import ConflictError
from ts4s_core.settings import StorageSettings

ROUNDS = 12
RACE = """
import sys
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings
registry = Registry(ArtifactStore.open(StorageSettings(uri=sys.argv[1])))
numbers = [registry.decide("demo", to=None, why=f"{sys.argv[2]} {i}").number for i in range(int(sys.argv[3]))]
sys.stdout.write(" ".join(map(str, numbers)))
"""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with linkless_folder(tmp_path) as mounted:
        yield mounted


def test_the_device_is_what_it_is_meant_to_be(mount: Path) -> None:
    (mount / "file").write_text("x")
    with pytest.raises(PermissionError):
        os.link(mount / "file", mount / "second")
    with pytest.raises(OSError, match="Invalid argument"):
        rename_to_free_name(mount / "file", mount / "second")


def test_a_run_goes_through_to_its_registry_entry(mount: Path) -> None:
    store = ArtifactStore.open(StorageSettings(uri=str(mount / "store")))
    try_writes(store.storage)
    assert list(mount.iterdir()) == []
    assert store.storage.conditional_writes is False
    with Lease.hold(store, "demo"), store.begin("trained", "demo", "a" * 64, settings={}, upstream={}) as writer:
        writer.add_bytes("model.safetensors", b"1")
        writer.seal()
    assert Registry(store).decide("demo", to=writer.ref.version, why="gate").number == 1
    assert Registry(store).alias("demo") == writer.ref.version
    with pytest.raises(ConflictError, match="exists already"):
        store.storage.create("registry/demo/00000001.json", b"{}")
    left = {path.relative_to(mount / "store").parts[0] for path in (mount / "store").rglob("*") if path.is_file()}
    assert left == {"trained", "registry"}


def test_writers_take_turns_where_the_device_cannot_refuse(mount: Path) -> None:
    command = [sys.executable, "-c", RACE, str(mount / "store")]
    writers = [subprocess.Popen([*command, name, str(ROUNDS // 2)], stdout=subprocess.PIPE, text=True) for name in ("one", "two")]
    numbers = [int(number) for writer in writers for number in writer.communicate(timeout=120)[0].split()]
    assert sorted(numbers) == list(range(1, ROUNDS + 1))
    store = ArtifactStore.open(StorageSettings(uri=str(mount / "store")))
    assert len({entry.why for entry in Registry(store).entries("demo")}) == ROUNDS


def test_a_rename_that_never_replaces_serves_where_links_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    assert store.storage.conditional_writes is True
    store.storage.create("registry/demo/00000001.json", b"first")
    with pytest.raises(ConflictError, match="exists already"):
        store.storage.create("registry/demo/00000001.json", b"second")
    assert store.storage.read_bytes("registry/demo/00000001.json") == b"first"
