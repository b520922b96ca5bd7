"""The manifest: what a version consists of, written last, never rewritten."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.artifacts.versions.refs import MANIFEST, ArtifactRef, check_content, check_path
from ts4s_core.errors import InputError, IntegrityError, NotFoundError, listed

FORMAT = 1
MAX_MANIFEST_BYTES = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class RowGroup:
    """A piece of a Parquet file that can be read, and verified, alone. ``rows`` is 0 for the file's footer."""

    rows: int
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class FileEntry:
    """One file of a version.

    Attributes:
        path: relative to the version's folder.
        size: bytes.
        sha256: 64 hex digits.
        identity: whether downstream keys depend on this file (a log or a timing does not make another dataset).
        row_groups: for a streamed Parquet file its row groups and its footer.
    """

    path: str
    size: int
    sha256: str
    identity: bool = True
    row_groups: tuple[RowGroup, ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """All that is known of one version.

    ``facts`` holds the step's own results as JSON (counts, metrics, hashes), ``upstream_sha256`` by role what the content
    hash of the upstream version was.
    """

    kind: str
    name: str
    version: str
    key: str
    created: str
    settings: dict[str, Any]
    upstream: dict[str, str]
    code: str
    libraries: dict[str, str]
    instruction_set: str
    files: tuple[FileEntry, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    upstream_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> ArtifactRef:
        """The reference of this version."""
        return ArtifactRef(self.kind, self.name, self.version)

    @functools.cached_property
    def content_sha256(self) -> str:
        """Hash over path and hash of every identity file: what the keys of later steps use."""
        digest = hashlib.sha256()
        for entry in sorted(self.files, key=lambda entry: entry.path):
            if entry.identity:
                digest.update(f"{entry.path}\0{entry.sha256}\n".encode())
        return digest.hexdigest()

    def file(self, path: str) -> FileEntry:
        """The entry of one file.

        Raises:
            NotFoundError: if the version has no such file.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise NotFoundError(f"{self.ref} has no file {path!r}: it has {listed(entry.path for entry in self.files)}")

    def to_json(self) -> bytes:
        """The manifest as it is stored.

        Raises:
            InputError: if facts or settings hold what JSON has not (NaN, objects).
        """
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        try:
            return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as exc:
            raise InputError(
                f"Manifest of {self.ref} cannot be written: its facts and settings must be JSON values, {exc}"
            ) from exc

    @classmethod
    def from_json(cls, data: bytes, ref: ArtifactRef) -> Manifest:
        """Read a manifest that anybody may have written.

        Raises:
            IntegrityError: if it is no manifest, is not this version's, names a file outside its folder or one twice,
                or a size or hash that cannot be.
        """
        try:
            manifest = _parse(data)
        except (ValueError, TypeError, KeyError, InputError, RecursionError) as exc:
            raise IntegrityError(
                f"{ref}/{MANIFEST} is damaged: expected a manifest of format {FORMAT}, got {_reason(exc)}"
            ) from exc
        if (manifest.kind, manifest.name, manifest.version) != (ref.kind, ref.name, ref.version):
            raise IntegrityError(
                f"{ref}/{MANIFEST} is not its version's: expected {ref}, got {manifest.kind}/{manifest.name}/{manifest.version}"
            )
        return manifest


def _reason(exc: Exception) -> str:
    return f"no field {exc}" if isinstance(exc, KeyError) else str(exc)[:300]


def _parse(data: bytes) -> Manifest:
    record = json.loads(data)
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise ValueError("another format")
    files = tuple(_entry(raw) for raw in _typed(record, "files", list))
    paths = [entry.path for entry in files]
    if len(set(paths)) != len(paths):
        raise ValueError("a file that is listed twice")
    return Manifest(
        **{name: _typed(record, name, str) for name in ("kind", "name", "version", "key", "created", "code", "instruction_set")},
        **{name: _typed(record, name, dict) for name in ("settings", "facts")},
        upstream=_texts(record, "upstream"),
        libraries=_texts(record, "libraries"),
        upstream_sha256=_texts({"upstream_sha256": {}, **record}, "upstream_sha256"),
        files=files,
    )


def _entry(raw: Any) -> FileEntry:
    if not isinstance(raw, dict):
        raise ValueError("a file entry that is no object")
    path = check_content(check_path(_typed(raw, "path", str)))
    size, pieces = _size(raw), raw.get("row_groups")
    groups = None
    if pieces is not None:
        groups = tuple(
            RowGroup(_count(g, "rows"), _count(g, "offset"), _size(g), _hash(g)) for g in _typed(raw, "row_groups", list)
        )
        if any(group.offset + group.size > size for group in groups):
            raise ValueError(f"a row group beyond the end of {path!r}")
    return FileEntry(path, size, _hash(raw), _typed(raw, "identity", bool), groups)


def _typed(record: Mapping[str, Any], name: str, expected: type) -> Any:
    value = record[name]
    if not isinstance(value, expected):
        raise ValueError(f"{name} of type {type(value).__name__}")
    return value


def _texts(record: Mapping[str, Any], name: str) -> dict[str, str]:
    values: dict[str, str] = _typed(record, name, dict)
    if not all(isinstance(value, str) for value in values.values()):
        raise ValueError(f"{name} with a value that is no text")
    return values


def _count(record: Mapping[str, Any], name: str) -> int:
    value = _typed(record, name, int)
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} {value}")
    return int(value)


def _size(record: Mapping[str, Any]) -> int:
    return _count(record, "size")


def _hash(record: Mapping[str, Any]) -> str:
    value = _typed(record, "sha256", str)
    if not _SHA256.match(value):
        raise ValueError(f"sha256 {value[:80]!r}")
    return str(value)
