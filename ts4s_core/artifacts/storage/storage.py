"""A folder or an object store, addressed by relative paths: one code path over fsspec.

Reading and listing are the same everywhere. Writing differs: a folder gets temporary names, fsync and links
(``folder.py``), an object store conditional or locked writes (``objects.py``).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ts4s_core.addresses import without_secrets
from ts4s_core.artifacts.leases.lease import LIMITS, STORE_LEASE, Fence, Lease, Limits, check_fences
from ts4s_core.artifacts.storage.folder import FolderFiles
from ts4s_core.artifacts.storage.storage_types import Files, Stored
from ts4s_core.artifacts.storage.transfer import bytes_callback, download
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY
from ts4s_core.errors import ConflictError, InputError, LeaseHeldError, NotFoundError, StoreError, Ts4sError
from ts4s_core.host_user import expanded
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import StorageSettings

if TYPE_CHECKING:
    from ts4s_core.artifacts.storage.objects import Upload

#: Whoever created this object where a version is built is the version's only writer, until it is sealed.
RESERVATION = f"{TEMPORARY}writer"
#: Where boto looks for keys that no setting gives; errors must not show these either.
_AWS_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

log = logging.getLogger(__name__)


class Storage:
    """Objects below one address. Opening and reading write nothing; every foreign error becomes a ts4s error.

    Attributes:
        settings: the settings it was opened with, the address made absolute: fit for another process on this host.
        folder: the root, if the storage is a folder of this host; else None.
        progress: called while large files are uploaded or downloaded.
        fences: leases and marks that the user of this object holds: checked before whatever decides is written through it.
        limits: times of leases in this storage.
    """

    def __init__(self, settings: StorageSettings, *, fs: Any, root: str, files: Files) -> None:
        self.settings = settings
        self.folder = Path(root) if isinstance(files, FolderFiles) else None
        self.fs = fs
        self.progress: Progress = silent
        self.fences: list[Fence] = []
        self.limits: Limits = LIMITS
        self._root = root.rstrip("/")
        self._files = files

    @classmethod
    def open(cls, settings: StorageSettings) -> Storage:
        """Connect to the address in the settings; nothing is read or written yet.

        Raises:
            InputError: if no installed library serves the address.
        """
        scheme, _, rest = settings.uri.rpartition("://")
        if scheme in ("", "file"):
            root = expanded(rest).absolute()
            absolute = settings.model_copy(update={"uri": str(root)})
            fs = fsspec.filesystem("file", use_listings_cache=False, skip_instance_cache=True)
            return cls(absolute, fs=fs, root=str(root), files=FolderFiles(root))
        from ts4s_core.artifacts.storage.objects import open_objects

        fs, key_root, files = open_objects(settings)
        return cls(settings, fs=fs, root=key_root, files=files)

    @property
    def uri(self) -> str:
        """The address, absolute."""
        return self.settings.uri

    @property
    def conditional_writes(self) -> bool:
        """Whether the store itself refuses to create an object twice (found out at the first question, nothing is left)."""
        with self.failures("ask for conditional writes", ""):
            return self._files.conditional_writes

    def read_bytes(self, path: str, *, most: int | None = None) -> bytes:
        """The content of a small object, or its first bytes.

        Raises:
            NotFoundError: if there is no such object.
        """
        with self.failures("read", path):
            return bytes(self.fs.cat_file(self.full(path), start=None if most is None else 0, end=most))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of an object that has them; threads may read side by side.

        Raises:
            NotFoundError: if there is no such object.
        """
        with self.failures("read", path):
            return self._files.read_range(path, start, end)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write an object, over an older one if there is one."""
        with self.failures("write", path):
            self._files.write(path, data)

    def create(self, path: str, data: bytes, *, fenced: bool = True) -> None:
        """Write an object that must not exist, atomically where the store can; else by one writer at a time, under a lease.

        Args:
            path: the object.
            data: its content.
            fenced: only as long as everything holds that the user of this storage holds.

        Raises:
            ConflictError: if it exists.
            LeaseHeldError: if a lease was lost.
        """
        files, fences = self._files, self.fences if fenced else []
        with self.failures("create", path):
            if files.conditional_writes:
                check_fences(self, fences)
                files.create(path, data)
                return
            with Lease.hold(self, STORE_LEASE, fencing=False) as lease:

                def check() -> None:
                    lease.check()
                    check_fences(self, fences)

                files.create(path, data, check=check)

    def put_file(self, local: Path, path: str) -> tuple[int, str]:
        """Copy a local file in, with bounded memory; returns its size and sha256."""
        with self.failures("write", path):
            return self._files.put(path, Path(local), bytes_callback(self.progress, "upload", path))

    def get_file(self, path: str, local: Path, *, size: int) -> str:
        """Copy an object of known size to a local file, with bounded memory, from where an earlier attempt stopped.

        Returns:
            sha256 of the file; the caller compares it.
        """
        with self.failures("read", path):
            read = functools.partial(self._files.read_range, path)
            return download(read, size, local, on_bytes=bytes_callback(self.progress, "download", path))

    def size(self, path: str) -> int | None:
        """Size of an object in bytes, or None if there is no such object."""
        with self.failures("look up", path):
            try:
                info = self.fs.info(self.full(path))
            except FileNotFoundError:
                return None
            return int(info["size"]) if info["type"] == "file" else None

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size(path) is not None

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders right below a folder."""
        with self.failures("list", prefix):
            try:
                found = self.fs.ls(self.full(prefix), detail=True)
            except FileNotFoundError:
                return []
            names = [info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"]
        return sorted(name for name in names if not name.startswith(TEMPORARY))

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object; none there is no error.

        Args:
            path: the object.
            prune: remove the folders above it too that are left empty.
        """
        with self.failures("delete", path):
            self._files.delete(path, prune=prune)

    def move(self, source: str, target: str) -> None:
        """Give an object another name, over an older one if there is one.

        Raises:
            NotFoundError: if there is no such object.
        """
        with self.failures("move", source):
            self._files.move(source, target)

    def delete_tree(self, folder: str) -> None:
        """Remove every object below a folder."""
        with self.failures("delete", folder):
            self._files.delete_tree(folder)

    def stage(self, folder: str) -> str:
        """Where the files of a version are put until :meth:`publish` (a folder's own temporary one; else the version's)."""
        return self._files.stage(folder)

    def reserve(self, folder: str, record: bytes) -> bool:
        """Take a version for one writer; false if it is taken.

        Args:
            folder: the version's.
            record: what :meth:`reservation` gives back.
        """
        if isinstance(self._files, FolderFiles):
            with self.failures("begin", folder):
                if not self._files.reserve(folder):
                    return False
                self._files.write(f"{self.stage(folder)}/{RESERVATION}", record)
                return True
        try:
            self.create(f"{folder}/{RESERVATION}", record)
        except ConflictError:
            return False
        if self.exists(f"{folder}/{MANIFEST}"):
            # Sealed long ago, its reservation given back: the name is taken all the same.
            self.delete(f"{folder}/{RESERVATION}")
            return False
        return True

    def reservation(self, folder: str) -> bytes | None:
        """The record that the writer of a version left when it began; None if it has no writer (any more)."""
        try:
            return self.read_bytes(f"{self.stage(folder)}/{RESERVATION}")
        except NotFoundError:
            return None

    def publish(self, folder: str, manifest: bytes, *, check: Callable[[], None]) -> None:
        """Make a staged version appear, whole.

        Args:
            folder: the version's.
            manifest: the manifest's content.
            check: raises where the version is not this writer's any more; on an object store, where nothing ties the manifest to
                the files, it is asked after the manifest too, and the manifest is taken back if it came too late.

        Raises:
            ConflictError: if that version exists.
        """
        files = self._files
        check()
        if isinstance(files, FolderFiles):
            with self.failures("publish", folder):
                files.publish(folder, manifest)
            return
        self.create(f"{folder}/{MANIFEST}", manifest)
        try:
            check()
        except (ConflictError, LeaseHeldError):
            self.delete(f"{folder}/{MANIFEST}")
            raise
        except StoreError as exc:
            log.info("whether %s was sealed in time could not be asked: %s", folder, exc)
        try:
            self.delete(f"{folder}/{RESERVATION}")
        except StoreError as exc:
            log.info("the reservation of %s stays until gc: %s", folder, exc)

    def unfinished_uploads(self) -> list[Upload]:
        """Multipart uploads that were begun below this address and neither completed nor aborted."""
        from ts4s_core.artifacts.storage.objects import ObjectFiles

        with self.failures("list uploads of", ""):
            return self._files.unfinished_uploads() if isinstance(self._files, ObjectFiles) else []

    def abort_upload(self, upload: Upload) -> None:
        """Give an unfinished upload up."""
        from ts4s_core.artifacts.storage.objects import ObjectFiles

        if isinstance(self._files, ObjectFiles):
            with self.failures("abort the upload of", upload.path):
                self._files.abort_upload(upload)

    def try_upload(self, path: str) -> None:
        """Begin a multipart upload and give it up, where this store has such."""
        from ts4s_core.artifacts.storage.objects import S3Files

        if isinstance(self._files, S3Files):
            with self.failures("upload in parts to", path):
                self._files.try_upload(path)

    def full(self, path: str) -> str:
        """The path as the fsspec filesystem wants it."""
        return f"{self._root}/{path}" if path else self._root

    def _relative(self, name: str) -> str:
        full = self._root.lstrip("/")
        return name.lstrip("/").removeprefix(f"{full}/")

    @contextlib.contextmanager
    def failures(self, action: str, path: str) -> Iterator[None]:
        """Turn what a driver raises into one ts4s error that names the object and no secret."""
        where = f"{self.uri}/{path}".rstrip("/")
        try:
            yield
        except Ts4sError:
            raise
        except FileNotFoundError as exc:
            raise NotFoundError(f"Store cannot {action} {where}: no such object") from exc
        except PermissionError as exc:
            raise StoreError(
                f"Store cannot {action} {where}: access denied. Check the rights of this user or of the access key"
            ) from exc
        except ImportError as exc:
            raise InputError(f"Store cannot {action} {where}: {exc}") from exc
        except Exception as exc:  # a driver's own classes: OSError, botocore, aiohttp
            raise StoreError(f"Store cannot {action} {where}: {self._clean(exc)}") from exc

    def _clean(self, exc: Exception) -> str:
        """The error's text without secrets."""
        text = f"{type(exc).__name__}: {exc}"
        given = [secret.get_secret_value() for secret in (self.settings.key, self.settings.secret) if secret is not None]
        for secret in (*given, *(os.environ.get(name, "") for name in _AWS_SECRETS)):
            if secret:
                text = text.replace(secret, "***")
        return without_secrets(text)[:600]

    def list(self, prefix: str = "", *, temporary: bool = False) -> list[Stored]:
        """Every object below a folder, by path; what is being written under temporary names only if asked for."""
        with self.failures("list", prefix):
            try:
                found = self.fs.find(self.full(prefix), detail=True)
            except FileNotFoundError:
                return []
            stored = [
                Stored(self._relative(name), int(info["size"] or 0), _mtime(info), str(info.get("ETag") or ""))
                for name, info in found.items()
            ]
        return sorted(entry for entry in stored if temporary or f"/{TEMPORARY}" not in f"/{entry.path}")


def _mtime(info: dict[str, Any]) -> float:
    value = info.get("mtime", info.get("LastModified", info.get("created", 0.0)))
    return value.timestamp() if isinstance(value, datetime.datetime) else float(value)
