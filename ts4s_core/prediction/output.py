"""Where predictions go: a new folder or S3 prefix that appears whole, or a sealed ``predictions`` artifact."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ts4s_core.addresses import in_one_scheme, problem_of
from ts4s_core.artifacts.pieces import row_groups_of
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.store import ArtifactStore, stage_file
from ts4s_core.artifacts.versions.manifest import FileEntry, RowGroup
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.errors import ConflictError, SettingsError, StoreError
from ts4s_core.host_user import expanded
from ts4s_core.prediction.facts import PredictionFacts
from ts4s_core.settings import StorageSettings

SUCCESS = "_SUCCESS"


class Sink(Protocol):
    """The executors' end of an output: picklable, takes whole files."""

    def put(self, local: Path, name: str) -> dict[str, Any]:
        """Take a file; the result is for the driver's end. A repeated attempt replaces the file."""


class Target(Protocol):
    """The driver's end of an output."""

    @property
    def uri(self) -> str:
        """What it is called."""

    def begin(self) -> Sink:
        """Prepare the place."""

    def finish(self, files: Sequence[Mapping[str, Any]], facts: PredictionFacts) -> None:
        """Make everything appear."""

    def abandon(self) -> None:
        """Remove what was written."""


@dataclass(frozen=True)
class StorageSink:
    """Files below an address; ``token`` keeps those of two jobs apart."""

    storage: StorageSettings
    token: str

    def put(self, local: Path, name: str) -> dict[str, Any]:
        """See :class:`Sink`."""
        Storage.open(self.storage).put_file(local, tokened(name, self.token))
        return {}


@dataclass(frozen=True)
class ArtifactSink:
    """Files of an artifact's version that the driver began."""

    storage: StorageSettings
    ref: str

    def put(self, local: Path, name: str) -> dict[str, Any]:
        """See :class:`Sink`."""
        groups = row_groups_of(local) if name.endswith(".parquet") else None
        entry = stage_file(ArtifactStore.open(self.storage).storage, ArtifactRef.parse(self.ref), name, local, groups)
        pieces = None if groups is None else [[part.rows, part.offset, part.size, part.sha256] for part in groups]
        return {"path": name, "size": entry.size, "sha256": entry.sha256, "row_groups": pieces}


class FolderTarget:
    """A new folder of this host (or one that all executors share), filled beside and renamed at the end."""

    def __init__(self, folder: Path, storage: StorageSettings) -> None:
        self._folder, self._storage = folder.absolute(), storage
        self._staged: Path | None = None
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SettingsError(f"--output {folder} already exists: expected a new folder, or an empty one. Choose another")
        above = next(parent for parent in self._folder.parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise SettingsError(f"--output {folder} cannot be made: no right to write in {above}. Choose another folder")

    @property
    def uri(self) -> str:
        """See :class:`Target`."""
        return str(self._folder)

    def begin(self) -> Sink:
        """See :class:`Target`."""
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._staged = Path(tempfile.mkdtemp(prefix=".ts4s-tmp-", dir=self._folder.parent))
        except OSError as exc:
            raise SettingsError(f"--output {self._folder} cannot be made: {exc.strerror or exc}. Choose another folder") from exc
        self._staged.chmod(0o755)
        return StorageSink(self._storage.model_copy(update={"uri": str(self._staged)}), "")

    def finish(self, files: Sequence[Mapping[str, Any]], facts: PredictionFacts) -> None:
        """See :class:`Target`."""
        assert self._staged is not None, "begin comes first"
        (self._staged / SUCCESS).write_bytes(_json(facts.shown()))
        try:
            os.rename(self._staged, self._folder)  # replaces an empty folder, and nothing else
        except OSError as exc:
            raise ConflictError(f"--output {self._folder} cannot be written: {exc.strerror or exc}. Choose another") from exc
        self._staged = None

    def abandon(self) -> None:
        """See :class:`Target`."""
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)


class ObjectTarget:
    """A prefix in an object store: the files of a job count from the moment that its ``_SUCCESS`` is there, create-only."""

    def __init__(self, uri: str, storage: StorageSettings) -> None:
        self.uri = uri
        self._settings = storage.model_copy(update={"uri": uri})
        self._storage = Storage.open(self._settings)
        self._token = uuid.uuid4().hex[:8]
        if self._storage.list():
            raise SettingsError(f"--output {uri} already exists: expected an address without objects. Choose another")

    def begin(self) -> Sink:
        """See :class:`Target`."""
        return StorageSink(self._settings, self._token)

    def finish(self, files: Sequence[Mapping[str, Any]], facts: PredictionFacts) -> None:
        """See :class:`Target`."""
        self._storage.create(SUCCESS, _json({**facts.shown(), "token": self._token}))

    def abandon(self) -> None:
        """See :class:`Target`."""
        for entry in self._storage.list():
            if f"-{self._token}." in entry.path:
                self._storage.delete(entry.path)


class ArtifactTarget:
    """A version of kind ``predictions``."""

    def __init__(self, store: ArtifactStore, *, trained: ArtifactRef, key: str, settings: Mapping[str, Any]) -> None:
        self._store, self._trained, self._key, self._settings = store, trained, key, settings
        self._writer: ArtifactWriter | None = None

    @property
    def uri(self) -> str:
        """See :class:`Target`."""
        return "" if self._writer is None else f"{self._store.storage.uri}/{self._writer.ref}"

    @property
    def ref(self) -> str:
        """Reference of the version."""
        return "" if self._writer is None else str(self._writer.ref)

    def begin(self) -> Sink:
        """See :class:`Target`."""
        upstream = {"trained": self._trained}
        self._writer = self._store.begin("predictions", self._trained.name, self._key, settings=self._settings, upstream=upstream)
        return ArtifactSink(self._store.storage.settings, str(self._writer.ref))

    def finish(self, files: Sequence[Mapping[str, Any]], facts: PredictionFacts) -> None:
        """See :class:`Target`."""
        if self._writer is None:
            raise StoreError("predictions were not begun")
        for entry in sorted(files, key=lambda entry: str(entry["path"])):
            groups = None if entry["row_groups"] is None else tuple(RowGroup(*group) for group in entry["row_groups"])
            self._writer.register(FileEntry(entry["path"], entry["size"], entry["sha256"], True, groups))
        self._writer.facts = facts.to_json()
        self._writer.seal()

    def abandon(self) -> None:
        """See :class:`Target`."""
        if self._writer is not None:
            self._writer.abandon()


@dataclass(frozen=True)
class ReadPredictions:
    """Reads the files of a ``predictions`` version, for a table of them; runs anywhere."""

    storage: StorageSettings
    ref: str

    def __call__(self, path: str) -> Iterator[pa.RecordBatch]:
        """The rows of one file, verified."""
        with ArtifactStore.open(self.storage).open_file(ArtifactRef.parse(self.ref), path) as file:
            yield from pq.ParquetFile(file).iter_batches()


def open_target(uri: str, storage: StorageSettings) -> Target:
    """The output that an address names; nothing is written yet.

    Raises:
        SettingsError: if something is there, or a folder cannot be made.
        InputError: if no installed library serves the address.
    """
    uri = in_one_scheme(uri)
    problem = problem_of("--output", uri)
    if problem is not None:
        raise SettingsError(problem)
    scheme, _, rest = uri.rpartition("://")
    if scheme in ("", "file"):
        return FolderTarget(expanded(rest), storage)
    return ObjectTarget(uri.rstrip("/"), storage)


def tokened(name: str, token: str) -> str:
    """``part-00000-TOKEN.parquet``; the order of the names stays."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-{token}{dot}{ending}" if token else name


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"
