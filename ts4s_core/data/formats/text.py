"""Plain text as blocks: cut at paragraphs, lines or words near multiples of a size, so that every part of a file can be cut
without reading what comes before it, and any number of readers gets the same blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import BinaryIO

CHUNK_BYTES = 4 * 2**20
_MARK = b"\xef\xbb\xbf"


def blocks_between(file: BinaryIO, start: int, end: int | None, *, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The blocks that belong to ``[start, end)``: where each begins in the file, and its bytes.

    Args:
        file: seekable; a byte order mark at its beginning is dropped.
        start: a multiple of ``block_bytes``.
        end: a multiple of it, or the end of the file; None: wherever that is.
        block_bytes: usual size; a block has at most twice that.
    """
    view = _View(file, max(start - 1, 0))
    at = _cut(view, start, block_bytes)
    for place in itertools.count(start, block_bytes) if end is None else range(start, end, block_bytes):
        stop = _cut(view, place + block_bytes, block_bytes)
        if end is None and stop <= at and view.ended:
            return
        if stop > at:
            data = view.between(at, stop)
            yield at, data.removeprefix(_MARK) if at == 0 else data
        at = stop


class _View:
    """Bytes of a file from a moving place on."""

    def __init__(self, file: BinaryIO, base: int) -> None:
        file.seek(base)
        self._file = file
        self._base = base
        self._held = b""
        self.ended = False

    @property
    def end(self) -> int:
        """Where the bytes that are held end."""
        return self._base + len(self._held)

    def reach(self, place: int) -> None:
        """Hold everything up to a place, or to the end of the file."""
        while self.end < place and not self.ended:
            chunk = self._file.read(CHUNK_BYTES)
            self.ended = not chunk
            self._held += chunk

    def between(self, start: int, stop: int) -> bytes:
        """Some bytes; everything before the last of them is let go."""
        data = self._held[start - self._base : stop - self._base]
        if stop - 1 - self._base > CHUNK_BYTES // 2:
            self._held = self._held[stop - 1 - self._base :]
            self._base = stop - 1
        return data

    def find(self, sign: bytes, start: int, stop: int) -> int:
        """Where a sign ends that lies in ``[start, stop)``; -1: nowhere."""
        found = self._held.find(sign, start - self._base, stop - self._base)
        return -1 if found < 0 else self._base + found + len(sign)

    def byte(self, place: int) -> int:
        """One byte."""
        return self._held[place - self._base]


def _cut(view: _View, place: int, block_bytes: int) -> int:
    """Where the block that would end at ``place`` ends: at the next blank line if one is near, else line, word or character."""
    view.reach(place + block_bytes)
    if place == 0 or view.end <= place:
        return min(place, view.end)
    for sign, reach in ((b"\n\n", block_bytes // 4), (b"\n", block_bytes), (b" ", block_bytes)):
        found = view.find(sign, place - 1, min(place + reach, view.end))
        if found >= 0:
            return found
    while place < view.end and view.byte(place) & 0xC0 == 0x80:
        place += 1
    return place
