"""Writing to a local folder: whole or not at all, durable, never over an existing object unless asked to.

A file is written under a temporary name beside its place, flushed to the disk, then linked or renamed into place, and the
folder is flushed too. A version is built in a temporary folder, its stage, which one rename turns into the version. A stage
that was taken away is never made again: what its writer writes after that fails, the rename too. Folders are taken away by a
rename first, so that nobody's rename can make a version of one that is half deleted.

A create-only object gets its name by a hard link, which never replaces; on a device without hard links (exFAT, SMB, many FUSE
mounts) by Linux's rename that never replaces; where there is neither, by a plain rename under the store's lease.

A client of a network file system sends a request again whose answer was lost, and is told then that what it wants to make is
there, or that what it renames is not: so both look whether it was their own doing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ts4s_core.artifacts.storage.storage_types import unchecked
from ts4s_core.artifacts.storage.transfer import BytesCallback, ignore_bytes
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY
from ts4s_core.errors import ConflictError

CHUNK_BYTES = 2**20
#: What a device says of a kind of operation that it does not have, rather than of this one call.
_NOT_HERE = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
GiveName = Callable[[Path, Path], None]


class FolderFiles:
    """The write side of a store in a folder; paths are relative to the store's root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made_root = False

    @property
    def conditional_writes(self) -> bool:
        """Whether the device has a way to give a file a name that is taken by nobody; tried out, and nothing is left."""
        return self._give_name is not None

    @functools.cached_property
    def _give_name(self) -> GiveName | None:
        place = nearest(self._root)
        first, second = (place / f"{TEMPORARY}{uuid.uuid4().hex}" for _ in range(2))
        first.touch(exist_ok=False)
        try:
            for way in (os.link, rename_to_free_name):
                try:
                    way(first, second)
                except OSError as exc:
                    if exc.errno not in _NOT_HERE:
                        raise
                else:
                    return way
            return None
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)

    def write(self, path: str, data: bytes) -> None:
        """Write an object, over an older one if there is one."""
        with self._temporary(path, lambda file: file.write(data)) as temporary:
            os.replace(temporary, self._root / path)

    def create(self, path: str, data: bytes, *, check: Callable[[], None] = unchecked) -> None:
        """Write an object that must not exist.

        Args:
            path: the object.
            data: its content.
            check: asked right before the plain rename of a device that has nothing better; raises if the lease was lost.

        Raises:
            ConflictError: if it exists.
        """
        target = self._root / path
        with self._temporary(path, lambda file: file.write(data)) as temporary:
            try:
                if self._give_name is not None:
                    self._give_name(temporary, target)
                elif target.exists():
                    raise FileExistsError(target)
                else:  # the caller holds the store's lease
                    check()
                    os.replace(temporary, target)
            except (FileExistsError, FileNotFoundError) as exc:
                if _made_before(temporary, target, data):
                    return
                if isinstance(exc, FileNotFoundError):
                    raise
                raise ConflictError(f"{path} exists already: it is create-only and somebody else wrote it first") from exc

    def put(self, path: str, local: Path, on_bytes: BytesCallback = ignore_bytes) -> tuple[int, str]:
        """Copy a file in; returns size and sha256 of the very bytes that were written."""
        digest, size, total = hashlib.sha256(), 0, local.stat().st_size

        def copy(target: BinaryIO) -> None:
            nonlocal size
            with local.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += target.write(chunk)
                    on_bytes(size, total)

        with self._temporary(path, copy) as temporary:
            os.replace(temporary, self._root / path)
        return size, digest.hexdigest()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of an object."""
        with (self._root / path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object, and with ``prune`` the folders that are left empty; none there is no error."""
        target = self._root / path
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
            _flush_folder(target.parent)
        if prune:
            self._prune(target)

    def move(self, source: str, target: str) -> None:
        """Rename a file, over an older one."""
        self._make_folder((self._root / target).parent)
        os.replace(self._root / source, self._root / target)

    def delete_tree(self, folder: str) -> None:
        """Remove a folder with all in it, and the folders above it that are left empty (the root too, if it was made here)."""
        target = self._root / folder
        gone = target.parent / f"{TEMPORARY}gone-{uuid.uuid4().hex}"
        try:
            os.rename(target, gone)
        except FileNotFoundError:
            gone = target
        shutil.rmtree(gone, ignore_errors=not gone.exists())
        self._prune(target)

    def _prune(self, target: Path) -> None:
        for parent in target.parents:
            # A root that was there before stays, empty or not.
            if not (self._root in parent.parents or (parent == self._root and self._made_root)):
                return
            try:
                parent.rmdir()
            except OSError:  # not empty, or gone
                return

    def stage(self, folder: str) -> str:
        """Where the files of a version are put until it is published."""
        parent, _, name = folder.rpartition("/")
        return f"{parent}/{TEMPORARY}{name}"

    def reserve(self, folder: str) -> bool:
        """Take a version for one writer; false if it is taken."""
        stage = self._root / self.stage(folder)
        if (self._root / folder).exists():
            return False
        while True:
            stage.parent.mkdir(parents=True, exist_ok=True)
            try:
                stage.mkdir()
            except FileExistsError:
                return False
            except FileNotFoundError:
                continue  # another process pruned the empty parent in between
            return True

    def publish(self, folder: str, manifest: bytes) -> None:
        """Put the manifest into the staged folder, without what killed writers left there, and turn it into the version.

        Raises:
            ConflictError: if that version exists.
        """
        stage, target = self._root / self.stage(folder), self._root / folder
        self.write(f"{self.stage(folder)}/{MANIFEST}", manifest)
        for directory, _, names in os.walk(stage):
            for name in names:
                if name.startswith(TEMPORARY):
                    (Path(directory) / name).unlink(missing_ok=True)
            _flush_folder(Path(directory))
        try:
            os.rename(stage, target)  # a folder never replaces one that is not empty
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and not target.exists():
                raise _vanished(folder) from exc
            if not target.exists():
                raise
            if stage.exists() or (target / MANIFEST).read_bytes() != manifest:
                raise ConflictError(f"{folder} exists already: versions are never rewritten") from exc
        _flush_folder(target.parent)

    @contextlib.contextmanager
    def _temporary(self, path: str, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        folder = (self._root / path).parent
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with self._opened_new(temporary) as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _flush_folder(folder)
        except FileNotFoundError as exc:
            stage = self._stage_of(folder)
            if stage is None or stage.exists():
                raise
            raise _vanished(path) from exc
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def _opened_new(self, path: Path) -> BinaryIO:
        while True:
            self._make_folder(path.parent)
            try:
                return path.open("xb")
            except FileNotFoundError:
                continue  # another process pruned the empty folder in between

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; but a stage is made by :meth:`reserve` alone.

        Raises:
            ConflictError: if it would be below a stage that is not there.
        """
        stage = self._stage_of(folder)
        self._made_root = self._made_root or not self._root.exists()
        if stage is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        below = folder.relative_to(stage).parts
        try:
            for depth in range(len(below)):
                stage.joinpath(*below[: depth + 1]).mkdir(exist_ok=True)
        except FileNotFoundError as exc:
            raise _vanished(str(folder.relative_to(self._root))) from exc
        if not stage.exists():
            raise _vanished(str(folder.relative_to(self._root)))

    def _stage_of(self, folder: Path) -> Path | None:
        """The stage that a folder is, or is in."""
        above = [folder, *folder.parents]
        return next((place for place in above[: above.index(self._root)] if place.name.startswith(TEMPORARY)), None)


def _made_before(temporary: Path, target: Path, data: bytes) -> bool:
    """Whether a name was given by the first of two requests of which the client saw the second one's answer."""
    if temporary.exists():
        return target.exists() and os.path.samefile(temporary, target)
    return target.exists() and target.read_bytes() == data


def _vanished(path: str) -> ConflictError:
    return ConflictError(
        f"{path} comes too late: what its writer had begun was taken away meanwhile, or sealed. Run the command again"
    )


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # removed meanwhile: nothing is left to make durable
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NOT_HERE:
            raise  # else a device that flushes files alone: its names are as durable as it makes them
    finally:
        os.close(descriptor)


def rename_to_free_name(source: Path, target: Path) -> None:
    """Rename, and fail if the target exists, in one step.

    Raises:
        FileExistsError: if it exists.
        OSError: ENOSYS or EINVAL where the system or the device cannot do that.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def nearest(path: Path) -> Path:
    """The path itself, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))
