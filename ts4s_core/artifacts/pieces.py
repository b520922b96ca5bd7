"""Parquet files in pieces: each row group, and the footer, is hashed when written and verified when streamed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO, cast

from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.manifest import FileEntry, RowGroup
from ts4s_core.errors import IntegrityError


def row_groups_of(path: Path) -> tuple[RowGroup, ...]:
    """The pieces of a local Parquet file: from one row group's start to the next one's, then the footer (0 rows).

    Together the pieces are the whole file, so that a reader never sees an unverified byte.
    """
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    starts, rows = [0], []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(number) for number in range(group.num_columns)]
        # The first piece begins with the file's magic number, every other where its first page does.
        ends = (_start(column) + column.total_compressed_size for column in columns)
        # A row group without rows, which other writers make, has no pages: its piece is empty.
        starts.append(max([starts[-1], *ends]))
        rows.append(group.num_rows)
    size = path.stat().st_size
    pieces = []
    with path.open("rb") as file:
        for start, end, count in zip(starts, [*starts[1:], size], [*rows, 0], strict=True):
            data = file.read(end - start)
            pieces.append(RowGroup(count, start, end - start, hashlib.sha256(data).hexdigest()))
    return tuple(pieces)


def _start(column: object) -> int:
    dictionary, data = getattr(column, "dictionary_page_offset", None), int(getattr(column, "data_page_offset", 0))
    return min(int(dictionary), data) if dictionary else data


class PieceReader(io.RawIOBase):
    """A seekable reader that fetches whole pieces and compares their hashes before it hands out a byte.

    It holds the footer and one row group at a time: memory does not grow with the file.
    """

    def __init__(self, storage: Storage, path: str, entry: FileEntry) -> None:
        super().__init__()
        self._storage = storage
        self._path = path
        self._entry = entry
        self._pieces = entry.row_groups or ()
        self._position = 0
        self._held: dict[int, bytes] = {}
        end = 0
        for piece in self._pieces:
            if piece.offset != end:
                raise IntegrityError(f"{self._where()} cannot be streamed: its manifest's row groups leave out byte {end}")
            end += piece.size
        if end != entry.size:
            raise IntegrityError(
                f"{self._where()} cannot be streamed: expected row groups of {entry.size} bytes in all, got {end}"
            )

    @classmethod
    def buffered(cls, storage: Storage, path: str, entry: FileEntry) -> BinaryIO:
        """The reader as an ordinary binary file."""
        return cast(BinaryIO, io.BufferedReader(cls(storage, path, entry)))

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The byte that is read next."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """Read up to the end of the piece at this position."""
        view = memoryview(cast(bytearray, buffer)).cast("B")
        for index, piece in enumerate(self._pieces):
            if piece.offset <= self._position < piece.offset + piece.size:
                within = self._position - piece.offset
                data = self._piece(index)[within : within + len(view)]
                view[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0

    def _piece(self, index: int) -> bytes:
        if index in self._held:
            return self._held[index]
        piece, last = self._pieces[index], len(self._pieces) - 1
        data = self._storage.read_range(self._path, piece.offset, piece.offset + piece.size)
        found = hashlib.sha256(data).hexdigest()
        if len(data) != piece.size or found != piece.sha256:
            raise IntegrityError(
                f"{self._where()} is damaged in row group {index}: expected {piece.size} bytes with sha256 {piece.sha256}, "
                f"got {len(data)} with {found}. Make or publish that version again"
            )
        self._held = {kept: self._held[kept] for kept in self._held if kept == last} | {index: data}
        return data

    def _where(self) -> str:
        return f"{self._storage.uri.rstrip('/')}/{self._path}"
