"""The artifact store: write once, seal last, verify on read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ts4s_core.artifacts.cache import Cache, default_cache_dir
from ts4s_core.artifacts.pieces import PieceReader
from ts4s_core.artifacts.staging import Reservation
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.manifest import MAX_MANIFEST_BYTES, Manifest
from ts4s_core.artifacts.versions.refs import KINDS, MANIFEST, TEMPORARY, ArtifactRef, check_kind, check_name
from ts4s_core.artifacts.versions.verified import check_file
from ts4s_core.artifacts.writer import ArtifactWriter, stage_file
from ts4s_core.errors import InputError, IntegrityError, NotFoundError, listed
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import StorageSettings

__all__ = ["ArtifactStore", "ArtifactWriter", "stage_file"]


class ArtifactStore:
    """Versions of artifacts below one address. A version exists from the moment its manifest does.

    ``store.storage.settings`` is what another process needs to open the same store (a filesystem object is not to be
    carried across a fork).
    """

    def __init__(self, storage: Storage, cache_dir: Path | None) -> None:
        self.storage = storage
        self._cache = Cache(storage, cache_dir)

    @classmethod
    def open(cls, settings: StorageSettings, *, progress: Progress = silent) -> ArtifactStore:
        """Open a store; nothing is written, neither there nor in the cache.

        Args:
            settings: where it is.
            progress: called while large files are uploaded or downloaded.

        Raises:
            InputError: if the address cannot be served.
        """
        storage = Storage.open(settings)
        storage.progress = progress
        return cls(storage, default_cache_dir(settings))

    def begin(
        self, kind: str, name: str, key: str, *, settings: Mapping[str, Any], upstream: Mapping[str, object]
    ) -> ArtifactWriter:
        """Begin a new version.

        Args:
            kind: kind of the artifact.
            name: its name.
            key: the step key, hex.
            settings: what the manifest says of the settings, JSON values without secrets.
            upstream: the artifacts it is made from, by role.
        """
        check_kind(kind)
        check_name(name)
        reservation = Reservation.new(self.storage)
        moment = datetime.datetime.now(datetime.UTC)
        while True:
            ref = ArtifactRef(kind, name, f"{moment:%Y%m%dT%H%M%S.%f}Z-{key[:8]}")
            if self.storage.reserve(str(ref), reservation.to_json()):
                return ArtifactWriter(
                    self.storage,
                    ref,
                    key,
                    settings=settings,
                    upstream=upstream,
                    manifest_of=self.manifest,
                    reservation=reservation,
                )
            moment += datetime.timedelta(microseconds=1)

    def kinds_and_names(self) -> list[tuple[str, str]]:
        """Every (kind, name) that has a folder in the store."""
        return [(kind, name) for kind in self.storage.folders() if kind in KINDS for name in self.names(kind)]

    def names(self, kind: str) -> list[str]:
        """Names of a kind, those without a sealed version included."""
        return self.storage.folders(check_kind(kind))

    def versions(self, kind: str, name: str) -> list[ArtifactRef]:
        """Sealed versions, oldest first."""
        return [ref for ref in self._folders(kind, name) if self.sealed(ref)]

    def sealed(self, ref: ArtifactRef) -> bool:
        """Whether the version exists."""
        return self.storage.exists(f"{ref}/{MANIFEST}")

    def newest(self, kind: str, name: str) -> ArtifactRef | None:
        """The newest sealed version, if there is any."""
        return next((ref for ref in reversed(self._folders(kind, name)) if self.sealed(ref)), None)

    def find(self, kind: str, name: str, key: str) -> ArtifactRef | None:
        """The newest sealed version that was made with this key, if there is any."""
        for ref in reversed(self._folders(kind, name)):
            if ref.version.endswith(f"-{key[:8]}") and self.sealed(ref) and self.manifest(ref).key == key:
                return ref
        return None

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest of a version.

        Raises:
            NotFoundError: if there is no such version.
            IntegrityError: if the manifest is damaged or foreign.
        """
        try:
            data = self.storage.read_bytes(f"{ref}/{MANIFEST}", most=MAX_MANIFEST_BYTES)
        except NotFoundError:
            known = self.versions(ref.kind, ref.name)
            raise NotFoundError(
                f"No artifact {ref} in {self.storage.uri}: {ref.kind}/{ref.name} has "
                + (f"the versions {listed(known_ref.version for known_ref in reversed(known))}" if known else "no versions")
            ) from None
        return Manifest.from_json(data, ref)

    def local(self, ref: ArtifactRef) -> Path:
        """A local folder with every file of the version, each verified.

        Raises:
            IntegrityError: naming the file that is missing, cut, changed, or not in the manifest.
        """
        manifest = self.manifest(ref)
        if self.storage.folder is None:
            return self._cache.folder(manifest)
        folder = self.storage.folder / str(ref)
        refuse_foreign_files(folder, manifest)
        for entry in manifest.files:
            check_file(folder / entry.path, entry, where=f"{folder}/{entry.path}")
        return folder

    def local_file(self, ref: ArtifactRef, path: str) -> Path:
        """One file of a version as a local, verified file.

        Raises:
            NotFoundError: if the version has no such file.
            IntegrityError: if the file is missing, cut or changed.
        """
        entry = self.manifest(ref).file(path)
        if self.storage.folder is None:
            return self._cache.file(ref, entry)
        local = self.storage.folder / str(ref) / path
        check_file(local, entry, where=str(local))
        return local

    def open_file(self, ref: ArtifactRef, path: str) -> BinaryIO:
        """A binary reader of one file, verified: a Parquet file with known row groups is streamed and each piece checked
        when it is first read; any other file is checked as a whole first.
        """
        entry = self.manifest(ref).file(path)
        if entry.row_groups is None:
            return self.local_file(ref, path).open("rb")
        return PieceReader.buffered(self.storage, f"{ref}/{path}", entry)

    def try_cache(self) -> str:
        """Write into the local cache as reading does, and take it away again; returns where that is.

        Raises:
            SettingsError: if it cannot be written to.
        """
        return str(self._cache.try_writes())

    def delete(self, ref: ArtifactRef) -> None:
        """Delete a version: its manifest first, so that no reader sees an incomplete one."""
        self.storage.delete(f"{ref}/{MANIFEST}")
        self.storage.delete_tree(str(ref))

    def _folders(self, kind: str, name: str) -> list[ArtifactRef]:
        prefix = f"{check_kind(kind)}/{check_name(name)}"
        found = []
        for version in self.storage.folders(prefix):
            try:
                found.append(ArtifactRef(kind, name, version))
            except InputError:  # a folder that somebody else put there
                continue
        return found


def refuse_foreign_files(folder: Path, manifest: Manifest) -> None:
    """Refuse a version's folder that holds files its manifest does not list: a loader might pick them up.

    Raises:
        IntegrityError: naming the first such files.
    """
    known = {entry.path for entry in manifest.files} | {MANIFEST}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    foreign = sorted(path for path in there - known if not path.rpartition("/")[2].startswith(TEMPORARY))
    if foreign:
        raise IntegrityError(
            f"{folder} holds files that its manifest does not list: {listed(foreign)}. Remove them, then try again"
        )
