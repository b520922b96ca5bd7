"""The state of a data source: which files it has, and hashes of their content, to find out whether it changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ts4s_core.artifacts.versions.keys import canonical_json
from ts4s_core.data.files import SourceFile, SourceFiles, failures
from ts4s_core.errors import SourceError
from ts4s_core.settings import DataSettings, StorageSettings

_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class SourceSnapshot:
    """The files of a data source at one time.

    Attributes:
        digest: sha256 over name, size and content hash of every file; no time, no folder.
        files: number of files.
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
    if not data.source or data.format in ("table", "docstrings"):
        raise SourceError(
            f"data.source {data.source!r} (format {data.format or 'docstrings'}) has no files to look at: expected a file, "
            "a folder, a glob or an s3:// address. A table or a library's docstrings can be retrained by a schedule instead"
        )
    source = SourceFiles(data.source, storage)
    found, single = source.find()
    with failures(data.source):
        fs, path = source.connect()
        entries = {("" if single else file.path.removeprefix(path)): _content(fs, source, file) for file in found}
    digest = hashlib.sha256(canonical_json({"files": sorted(entries.items())})).hexdigest()
    return SourceSnapshot(digest, len(found), sum(file.size for file in found))


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
