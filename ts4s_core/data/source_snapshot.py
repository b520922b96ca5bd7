"""The state of a data source: which files it has, and hashes of their content, to find out whether it changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ts4s_core.artifacts.versions.keys import canonical_json
from ts4s_core.data.files import SourceFile, SourceFiles, failures
from ts4s_core.errors import SourceError
from ts4s_core.settings import NAMED_FORMATS, DataSettings, StorageSettings

_PIECE_BYTES = 2**20
#: Where a table's log is, and the number in its entries.
_LOGS = {
    "delta": ("_delta_log", re.compile(r"(\d{20})\.json\Z")),
    "iceberg": ("metadata", re.compile(r"v?(\d+)(?:-[0-9a-f-]+)?\.metadata\.json\Z")),
}


@dataclass(frozen=True)
class SourceSnapshot:
    """The files of a data source at one time.

    Attributes:
        digest: sha256 over name, size and content hash of every file; no time, no folder. Of a Delta or Iceberg table, over its
            version or snapshot.
        files: number of files, or of entries of the table's log.
        size: their bytes.
    """

    digest: str
    files: int
    size: int


def take_snapshot(data: DataSettings, storage: StorageSettings) -> SourceSnapshot:
    """List the files of a source and hash each. An object store is asked for the hash that it keeps (ETag) instead.

    Raises:
        SourceError: if the source has no files to look at, or cannot be read.
    """
    if not data.source or data.format in NAMED_FORMATS:
        raise SourceError(
            f"data.source {data.source!r} (format {data.format or 'docstrings'}) has no files to look at: expected a file, "
            "a folder, a glob or an s3:// address. Tables, queries and docstrings are retrained by a schedule instead"
        )
    if data.format in _LOGS:
        return _table_snapshot(data, storage)
    source = SourceFiles(data.source, storage)
    found, single = source.find()
    with failures(data.source):
        fs, path = source.connect()
        entries = {("" if single else file.path.removeprefix(path)): _content(fs, source, file) for file in found}
    digest = hashlib.sha256(canonical_json({"files": sorted(entries.items())})).hexdigest()
    return SourceSnapshot(digest, len(found), sum(file.size for file in found))


def _table_snapshot(data: DataSettings, storage: StorageSettings) -> SourceSnapshot:
    """By the newest entry of the table's own log: its version, or its snapshot."""
    source, (folder, pattern) = SourceFiles(data.source, storage), _LOGS[str(data.format)]
    with failures(data.source):
        fs, path = source.connect()
        log = f"{path.rstrip('/')}/{folder}"
        try:
            entries = {str(entry["name"]).rpartition("/")[2]: entry for entry in fs.ls(log, detail=True)}
        except FileNotFoundError:
            entries = {}
        found = {int(match.group(1)): name for name in entries if (match := pattern.match(name))}
        if not found:
            raise SourceError(f"data.source {data.source} is no table of {data.format}: expected its log in {folder}, got none")
        newest = found[max(found)]
        state: list[object] = [max(found)]
        if data.format == "iceberg":
            state = [json.loads(fs.cat_file(f"{log}/{newest}")).get("current-snapshot-id")]
    digest = hashlib.sha256(canonical_json({"table": state, "options": sorted(data.options)})).hexdigest()
    return SourceSnapshot(digest, len(found), sum(int(entries[name].get("size") or 0) for name in found.values()))


def _content(fs: Any, source: SourceFiles, file: SourceFile) -> list[int | str]:
    info: Mapping[str, Any] = fs.info(file.path)
    stored = str(info.get("ETag") or "").strip('"')
    if stored:
        return [file.size, stored]
    hashed = hashlib.sha256()
    with source.open(file) as reader:
        while piece := reader.read(_PIECE_BYTES):
            hashed.update(piece)
    return [file.size, hashed.hexdigest()]
