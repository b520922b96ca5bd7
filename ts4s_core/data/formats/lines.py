"""Lines of a byte range, with bounded memory, whatever the bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ts4s_core.data.formats.rows import MAX_ROW_BYTES, NOT_UTF8, TOO_LONG, Record, Tally

CHUNK_BYTES = 2**20
# A line this long is over the limit, whatever ending or mark is still to be taken off it.
_KEPT_BYTES = MAX_ROW_BYTES + 8
_MARK = b"\xef\xbb\xbf"


def lines_between(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    """The lines that begin in ``[start, end)``, without their ``\\n`` or ``\\r\\n``; a file's byte order mark is dropped.

    Every line of a file belongs to one range, whichever way the file is cut. A line beyond ``MAX_ROW_BYTES`` comes cut,
    but still longer than that.
    """
    base = max(start - 1, 0)
    file.seek(base)
    held, skipping, first = b"", start > 0, start == 0
    while chunk := file.read(CHUNK_BYTES):
        at = 0
        while (cut := chunk.find(b"\n", at)) >= 0:
            line, held = held + chunk[at : min(cut, at + _KEPT_BYTES)], b""
            at = cut + 1
            if skipping:
                skipping = False
            else:
                yield _bare(line, first)
                first = False
            if end is not None and base + at >= end:
                return
        if len(held) < _KEPT_BYTES:
            held += chunk[at : at + _KEPT_BYTES]
        base += len(chunk)
    if held and not skipping:
        yield _bare(held, first)


def _bare(line: bytes, first: bool) -> bytes:
    if first:
        line = line.removeprefix(_MARK)
    return line.removesuffix(b"\r")


def text_lines(lines: Iterator[bytes], tally: Tally) -> Iterator[Record]:
    """A record of one cell, its text, for every line that is not blank; blank ones are tallied."""
    for number, raw in enumerate(lines, start=1):
        tally.lines = number
        if len(raw) > MAX_ROW_BYTES:
            yield Record(number, reason=TOO_LONG)
            continue
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            yield Record(number, reason=NOT_UTF8)
            continue
        if line and not line.isspace():
            yield Record(number, (line,))
        else:
            tally.blank += 1
