"""Writing one version: data files in any order, the manifest last.

A version has one writer: the one whose token is in its reservation. Files that other processes write for it
(:func:`stage_file`) get names of their own, by path and content, and become the version's when the writer seals it: so a file
that comes late, of whatever attempt, changes no file of a sealed version. Sealing refuses unless the reservation, every lease
and mark that it was made under, and every file with its size are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ts4s_core.artifacts.staging import Reservation, check_files, readable, reservation_of, stage_file
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.environment import instruction_set, library_versions
from ts4s_core.artifacts.versions.keys import code_version
from ts4s_core.artifacts.versions.manifest import FileEntry, Manifest, RowGroup
from ts4s_core.artifacts.versions.refs import MANIFEST, ArtifactRef, check_content, check_path
from ts4s_core.errors import ConflictError, InputError, StoreError, Ts4sError

__all__ = ["ArtifactWriter", "created_of", "stage_file"]

log = logging.getLogger(__name__)


class ArtifactWriter:
    """The only writer of one new version; a context manager that leaves a sealed version or nothing.

    Attributes:
        ref: the version that is being written.
        facts: results of the step, JSON values; they become part of the manifest.
        keep: set to True to keep the files of a failed attempt (``gc`` removes them after its grace time).
    """

    def __init__(
        self,
        storage: Storage,
        ref: ArtifactRef,
        key: str,
        *,
        settings: Mapping[str, Any],
        upstream: Mapping[str, object],
        manifest_of: Callable[[ArtifactRef], Manifest],
        reservation: Reservation,
    ) -> None:
        self.ref = ref
        self.facts: dict[str, Any] = {}
        self.keep = False
        self._storage = storage
        self._manifest_of = manifest_of
        self._key = key
        self._settings = dict(settings)
        self._upstream = {role: str(source) for role, source in upstream.items()}
        self._reservation = reservation
        self._files: dict[str, FileEntry] = {}
        self._parts: list[FileEntry] = []
        self._sealed: Manifest | None = None

    def add_bytes(self, path: str, data: bytes, *, identity: bool = True) -> FileEntry:
        """Write a small file.

        Raises:
            InputError: on a path that leaves the version's folder or a kind of file that is not kept at rest.
        """
        self._free(path)
        self._reservation.check(self._storage)
        self._storage.write_bytes(self._staged(path), data)
        return self._take(FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), identity))

    def add_json(self, path: str, value: object, *, identity: bool = True) -> FileEntry:
        """Write a value as JSON: keys in the order given, UTF-8, no NaN."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
        return self.add_bytes(path, text.encode() + b"\n", identity=identity)

    def add_file(
        self, local_path: Path, path: str, *, identity: bool = True, row_groups: Sequence[RowGroup] | None = None
    ) -> FileEntry:
        """Copy a local file in, with bounded memory."""
        self._free(path)
        self._reservation.check(self._storage)
        size, sha256 = self._storage.put_file(local_path, self._staged(path))
        return self._take(FileEntry(path, size, sha256, identity, None if row_groups is None else tuple(row_groups)))

    def add_folder(self, folder: Path, prefix: str = "", *, identity: bool = True) -> list[FileEntry]:
        """Copy every file below a local folder in, under ``prefix`` (as in ``tokenizer``)."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return [self.add_file(path, start + path.relative_to(folder).as_posix(), identity=identity) for path in paths]

    def register(self, entry: FileEntry) -> FileEntry:
        """Take over a file that :func:`stage_file` wrote, perhaps on another host.

        Raises:
            InputError: if the path is taken or not allowed.
        """
        self._free(entry.path)
        self._parts.append(entry)
        return self._take(entry)

    def _take(self, entry: FileEntry) -> FileEntry:
        self._files[entry.path] = entry
        return entry

    def seal(self) -> Manifest:
        """Write the manifest: from now on the version exists, and is never changed.

        Raises:
            ConflictError: if somebody else sealed that version, or took it away while it was written.
            LeaseHeldError: if a lease that it was begun under was lost.
            StoreError: if a file is not there as it was written, or the manifest is larger than one that is read.
        """
        if self._sealed is not None:
            raise StoreError(f"Version {self.ref} is sealed already: begin a new one")
        self.check()
        check_files(self._storage, self.ref, list(self._files.values()), self._parts)
        manifest = Manifest(
            kind=self.ref.kind,
            name=self.ref.name,
            version=self.ref.version,
            key=self._key,
            created=created_of(self.ref.version),
            settings=self._settings,
            upstream=self._upstream,
            code=code_version(),
            libraries=library_versions(),
            instruction_set=instruction_set(),
            files=tuple(self._files[path] for path in sorted(self._files)),
            facts=self.facts,
            upstream_sha256=self._upstream_sha256(),
        )
        self._publish(readable(manifest))
        self._sealed = manifest
        return manifest

    def check(self) -> None:
        """Make sure that the version is still this writer's.

        Raises:
            ConflictError, LeaseHeldError: if it is not.
        """
        self._reservation.check(self._storage)
        found = reservation_of(self._storage, self.ref)
        if found is None or found.token != self._reservation.token:
            raise ConflictError(
                f"Version {self.ref} was taken away while it was written: its writer was silent, or `ts4s models gc` took it for "
                "left behind. Run the command again"
            )

    def _upstream_sha256(self) -> dict[str, str]:
        found = {}
        for role, source in self._upstream.items():
            # What comes from outside the store, or was deleted meanwhile, has no content to name.
            with contextlib.suppress(InputError):
                found[role] = self._manifest_of(ArtifactRef.parse(source)).content_sha256
        return found

    def _publish(self, data: bytes) -> None:
        storage = self._storage
        try:
            storage.publish(str(self.ref), data, check=self.check)
        except ConflictError:
            self.keep = True  # what lies there is somebody else's now
            raise
        except StoreError:
            # The manifest may have arrived and only the answer been lost: then the version exists, and nobody may touch it.
            with contextlib.suppress(Ts4sError):
                if storage.read_bytes(f"{self.ref}/{MANIFEST}") == data:
                    return
            raise

    def abandon(self) -> None:
        """Delete what was written, unless the version is sealed, or another writer's by now."""
        storage = self._storage
        found = None if self._sealed is not None else reservation_of(storage, self.ref)
        if self._sealed is not None or (found is not None and found.token != self._reservation.token):
            return
        if storage.folder is None:
            # Should the manifest be there after all, no reader may see it without its files.
            storage.delete(f"{self.ref}/{MANIFEST}")
        storage.delete_tree(storage.stage(str(self.ref)))

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sealed is not None or (kind is not None and self.keep):
            return
        if kind is None:
            self.abandon()
            raise StoreError(f"Version {self.ref} was left without seal(): its files were deleted")
        with contextlib.suppress(Ts4sError):
            # The first error is the one to tell; gc removes what could not be deleted here.
            self.abandon()
            return
        log.warning("files of the failed version %s could not be deleted; `ts4s models gc` will", self.ref)

    def _staged(self, path: str) -> str:
        return f"{self._storage.stage(str(self.ref))}/{path}"

    def _free(self, path: str) -> None:
        if self._sealed is not None:
            raise StoreError(f"File {path!r} comes too late for {self.ref}: that version is sealed")
        check_content(check_path(path))
        if path in self._files:
            raise InputError(f"File {path!r} of {self.ref} was written already: every path is written once")


def created_of(version: str) -> str:
    """ISO time of a version's name: ``20261121T041500.123456Z-...`` is ``2026-11-21T04:15:00.123456Z``."""
    day, clock = version[:8], version[9:22]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z"
