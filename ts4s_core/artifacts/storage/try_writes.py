"""Every kind of write that a run needs of its store, tried before the first one that counts; nothing is left there.

The objects of the trial have temporary names, which nobody reads, and which ``ts4s models gc`` removes should this process be
killed in between. In a folder the trial goes through the very code that writes artifacts; a folder that is not there yet is
tried at the nearest one above it.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ts4s_core.artifacts.storage.folder import FolderFiles, nearest
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY
from ts4s_core.errors import ConflictError, SettingsError, StoreError

_DATA = b"written by ts4s to see whether it can, and removed at once\n"


def try_writes(storage: Storage) -> None:
    """Create, replace, refuse to create twice, read, rename and delete.

    Raises:
        SettingsError: naming what the store refuses to this user or key, or what its device cannot do.
        StoreError: if the store fails in another way.
    """
    if storage.folder is None:
        _try_objects(storage)
    else:
        _try_folder(storage.uri, storage.folder)


def _try_folder(uri: str, folder: Path) -> None:
    place = nearest(folder)
    if not place.is_dir():
        raise SettingsError(f"storage.uri {uri} is not usable: expected a folder, got the file {place}. Choose another folder")
    trial = place / f"{TEMPORARY}trial-{uuid.uuid4().hex}"
    files, version = FolderFiles(trial), "kind/name/version"
    try:
        with _refused(uri, "make a folder", place):
            trial.mkdir()
        with _refused(uri, "create a file that must not exist yet", place):
            files.create("created", _DATA)
            _expect_conflict(lambda: files.create("created", b""), uri)
        with _refused(uri, "replace a file", place):
            files.write("created", _DATA * 2)
            _expect(files.read_range("created", 0, 2 * len(_DATA)) == _DATA * 2, uri, "gives back what was written")
        with _refused(uri, "rename a folder", place):
            _expect(files.reserve(version), uri, "makes folders")
            files.write(f"{files.stage(version)}/data", _DATA)
            files.publish(version, b"{}\n")
            _expect((trial / version / MANIFEST).is_file(), uri, "keeps the files of a folder that is renamed")
        with _refused(uri, "delete files and folders", place):
            files.delete("created")
            files.delete_tree(version)
            _expect(not [*trial.iterdir()], uri, "forgets what is deleted")
            trial.rmdir()
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _try_objects(storage: Storage) -> None:
    name, uri = f"{TEMPORARY}trial-{uuid.uuid4().hex}", storage.uri
    # First, while there is nothing that would have to stay: a right to write without the right to delete leaves things.
    with _denied(uri, "delete"):
        storage.delete(name)
    try:
        with _denied(uri, "create"):
            storage.create(name, _DATA)
            _expect_conflict(lambda: storage.create(name, b""), uri)
        with _denied(uri, "write and read"):
            storage.write_bytes(name, _DATA * 2)
            _expect(storage.read_bytes(name) == _DATA * 2, uri, "gives back what was written")
        with _denied(uri, "upload in parts"):
            storage.try_upload(f"{name}-parts")
    finally:
        storage.delete(name)


@contextlib.contextmanager
def _refused(uri: str, action: str, place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SettingsError(
            f"storage.uri {uri} is not usable: cannot {action} in {place}: {exc.strerror or exc}. "
            "Give this user the rights, or choose another folder or device"
        ) from exc


@contextlib.contextmanager
def _denied(uri: str, action: str) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        if not isinstance(exc.__cause__, PermissionError):
            raise
        raise SettingsError(
            f"storage.uri {uri} is not usable: this key has no right to {action} objects there. Give it the rights that "
            "infra/docs/operations.md lists, or choose another address"
        ) from exc


def _expect_conflict(create: Callable[[], None], uri: str) -> None:
    try:
        create()
    except ConflictError:
        return
    raise StoreError(f"storage.uri {uri} is not safe: a second create of one object was taken. Choose another store")


def _expect(holds: bool, uri: str, what: str) -> None:
    if not holds:
        raise StoreError(f"storage.uri {uri} is not safe: expected a store that {what}. Choose another one")
