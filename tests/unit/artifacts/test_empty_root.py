"""A store that was not there before, and in which nothing was written in the end, is not there afterwards."""

from __future__ import annotations

from pathlib import Path

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings


def test_a_mark_leaves_no_folder_behind(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = ArtifactStore.open(StorageSettings(uri=str(folder)))
    with in_use(store, "train"):
        assert [path.name for path in folder.iterdir()] == ["leases"]
    assert not folder.exists()


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with in_use(ArtifactStore.open(StorageSettings(uri=str(folder))), "train"):
        pass
    assert list(folder.iterdir()) == []


def test_a_store_with_something_in_it_stays(tmp_path: Path) -> None:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    with in_use(store, "train"):
        store.storage.write_bytes("registry/demo/000001.json", b"{}")
    assert store.storage.read_bytes("registry/demo/000001.json") == b"{}"
