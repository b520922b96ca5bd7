"""The verified local copy of remote files, shared by all processes of a host.

A file is downloaded once, under a lock that other processes wait for, and gets its name only after its size and hash
were compared. A process hashes a file that it finds there once more before it first uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ts4s_core.artifacts.cache_room import ARRIVING, make_room, note_use
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.manifest import FileEntry, Manifest
from ts4s_core.artifacts.versions.refs import TEMPORARY, ArtifactRef
from ts4s_core.artifacts.versions.verified import check_file, remember
from ts4s_core.errors import IntegrityError, NotFoundError, SettingsError, StoreError
from ts4s_core.host_user import expanded, home
from ts4s_core.private_folders import own_folder
from ts4s_core.settings import StorageSettings

FILES_AT_ONCE = 2
#: A download that goes on brings its next piece sooner, retries included.
STUCK_S = 180.0
POLL_S = 0.1
#: Between two looks at the size of the cache.
LOOK_EVERY_S = 60.0
log = logging.getLogger(__name__)


def default_cache_dir(settings: StorageSettings) -> Path | None:
    """``storage.cache_dir``, else ``ts4s`` in the user's cache folder; None for a user without a home. It need not exist."""
    if settings.cache_dir:
        return expanded(settings.cache_dir).absolute()
    base, own = os.environ.get("XDG_CACHE_HOME", ""), home()
    if os.path.isabs(base):
        return Path(base) / "ts4s"
    return None if own is None else own / ".cache" / "ts4s"


class Cache:
    """Local copies of one remote store's files.

    Args:
        storage: the store's.
        cache_dir: where they lie; None: in this user's private folder, for a user who has no other.
    """

    def __init__(self, storage: Storage, cache_dir: Path | None) -> None:
        self._storage = storage
        self._cache_dir = cache_dir
        self._looked = -math.inf

    @functools.cached_property
    def _root(self) -> Path:
        address = f"{self._storage.uri.rstrip('/')}\0{self._storage.settings.endpoint_url or ''}"
        return (self._cache_dir or own_folder() / "cache") / hashlib.sha256(address.encode()).hexdigest()[:16]

    def folder(self, manifest: Manifest) -> Path:
        """A folder with every file of a version, each verified."""
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="cache") as pool:
            list(pool.map(lambda entry: self.file(manifest.ref, entry), manifest.files))
        return self._root / str(manifest.ref)

    def file(self, ref: ArtifactRef, entry: FileEntry) -> Path:
        """One file, verified.

        Raises:
            IntegrityError: if the store's own copy is missing, cut or changed.
            StoreError: if the cache cannot be written.
        """
        target = self._root / str(ref) / entry.path
        if _good(target, entry):
            note_use(target)
            return target
        partial = self.arriving(ref, entry)
        try:
            with _locked(partial.with_suffix(".lock"), grows=partial) as alone:
                if not _good(target, entry):
                    self._fetch(ref, entry, target, partial if alone else partial.with_name(uuid.uuid4().hex))
            self._make_room()
        except OSError as exc:
            raise StoreError(f"Cache cannot keep {target}: {exc}. Free space there, or set storage.cache_dir") from exc
        return target

    def arriving(self, ref: ArtifactRef, entry: FileEntry) -> Path:
        """Where a file lies until it is whole: not in its version's folder, whose files are the version's alone.

        Named by the hash too: what another attempt left there is the beginning of these very bytes.
        """
        return self._root / ARRIVING / hashlib.sha256(f"{ref}/{entry.path}\0{entry.sha256}".encode()).hexdigest()[:32]

    def _make_room(self) -> None:
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            make_room(self._root, most_bytes=self._storage.settings.cache_gb * 1e9)
            self._looked = time.monotonic()

    def try_writes(self) -> Path:
        """Make a file there under a lock, give it its name, and remove all that was not there before.

        Raises:
            SettingsError: if that does not go.
        """
        trial = self._root / f"{TEMPORARY}trial-{uuid.uuid4().hex}"
        missing = [folder for folder in (trial, *trial.parents) if not folder.exists()]
        try:
            with _locked(trial / "lock", grows=trial / "arriving"):
                (trial / "arriving").write_bytes(b"1")
                os.replace(trial / "arriving", trial / "file")
        except OSError as exc:
            raise SettingsError(f"cache folder {self._root} cannot be written to: {exc}. Set storage.cache_dir") from exc
        finally:
            shutil.rmtree(trial, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process uses it since
                for folder in missing[1:]:
                    folder.rmdir()
        return self._root

    def _fetch(self, ref: ArtifactRef, entry: FileEntry, target: Path, partial: Path) -> None:
        where = f"{self._storage.uri.rstrip('/')}/{ref}/{entry.path}"
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in ("resumed", "anew"):
            resumed = partial.exists() and attempt == "resumed"
            if not resumed:
                partial.unlink(missing_ok=True)
            try:
                size = self._storage.size(f"{ref}/{entry.path}")
                if size != entry.size:
                    found = "none" if size is None else f"{size} bytes"
                    raise IntegrityError(
                        f"{where} is damaged or missing: expected {entry.size} bytes, got {found}. Publish it again"
                    )
                # Hashed as it comes: the file is not read again.
                remember(partial, self._storage.get_file(f"{ref}/{entry.path}", partial, size=entry.size))
                check_file(partial, entry, where=where)
            except NotFoundError:
                raise IntegrityError(f"{where} is missing: expected {entry.size} bytes. Publish it again") from None
            except IntegrityError:
                partial.unlink(missing_ok=True)
                if resumed:
                    continue
                raise
            os.replace(partial, target)
            remember(target, entry.sha256)
            return


def _good(target: Path, entry: FileEntry) -> bool:
    try:
        check_file(target, entry, where=str(target))
    except IntegrityError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path, *, grows: Path) -> Iterator[bool]:
    """Hold a lock; yields False where its holder brought nothing for so long that it counts as stuck: then do without.

    Args:
        path: the lock's file.
        grows: the file that its holder writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size, since = -1, time.monotonic()
    while True:
        with path.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = grows.stat().st_size if grows.exists() else 0
                if now != size:
                    size, since = now, time.monotonic()
                if time.monotonic() - since > STUCK_S:
                    log.warning(
                        "another process holds %s and brought nothing for %.0f s: fetching its file beside it", path, STUCK_S
                    )
                    yield False
                    return
                time.sleep(POLL_S)
                continue
            if os.fstat(lock.fileno()).st_nlink:  # else it was taken away before it was locked
                yield True
                return
