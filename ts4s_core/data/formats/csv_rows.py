"""Comma-separated values after RFC 4180: a header, quoting with ``"``, line ends inside quotes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ts4s_core.data.formats.rows import MAX_ROW_BYTES, NOT_UTF8, TOO_LONG, Columns, Row, Tally, check_columns, encodable, row_of

_OPEN_QUOTE = "a quote that is not closed"


def read_csv(lines: Iterator[bytes], name: str, columns: Columns, tally: Tally) -> Iterator[Row]:
    """The good rows of a whole file; bad and blank ones are tallied. A row's line is the one that it begins on.

    Raises:
        DataError: if the header lacks a column.
    """
    wanted: tuple[int, int, int] | None = None
    for number, record in records(lines, tally):
        try:
            fields = fields_of(record)
        except ValueError as exc:
            tally.refuse(number, str(exc))
            continue
        if wanted is None:
            wanted = _places(fields, name, columns)
            continue
        label, text, width = wanted
        if len(fields) != width:
            tally.refuse(number, f"{len(fields)} fields where the header has {width}")
            continue
        row = row_of(fields[label], fields[text], columns)
        if isinstance(row, Row) and not encodable(record):
            row = NOT_UTF8
        if isinstance(row, str):
            tally.refuse(number, row)
        else:
            yield row


def _places(header: list[str], name: str, columns: Columns) -> tuple[int, int, int]:
    names = [field.strip() for field in header]
    check_columns(names, name, columns.named, place=" in its header", show_text=columns.show_text)
    return names.index(columns.label), names.index(columns.text), len(names)


def fields_of(record: str) -> list[str]:
    """The fields of one record.

    Raises:
        ValueError: saying which rule of quoting it breaks.
    """
    fields, at = [], 0
    while True:
        if record.startswith('"', at):
            value, at = _quoted(record, at + 1)
            if at < len(record) and record[at] != ",":
                raise ValueError("text after a closing quote")
        else:
            end = record.find(",", at)
            end = len(record) if end < 0 else end
            value, at = record[at:end], end
        fields.append(value)
        if at >= len(record):
            return fields
        at += 1


def _quoted(record: str, at: int) -> tuple[str, int]:
    parts = []
    while True:
        end = record.find('"', at)
        if end < 0:
            raise ValueError(_OPEN_QUOTE)
        parts.append(record[at:end])
        if not record.startswith('"', end + 1):
            return "".join(parts), end + 1
        parts.append('"')
        at = end + 2


def records(lines: Iterator[bytes], tally: Tally) -> Iterator[tuple[int, str]]:
    """Records with the number of their first line: lines, joined while a quote is open.

    Where a quote is never closed, its line alone is bad, and reading goes on with the line after it.
    """
    waiting: deque[bytes] = deque()
    number = 0
    while True:
        taken: list[str] = []
        size, inside = 0, False
        for raw in iter(lambda: waiting.popleft() if waiting else next(lines, None), None):
            line = raw.decode("utf-8", "surrogateescape")
            size += len(raw) + 1
            taken.append(line)
            inside = still_open(line, inside)
            if not inside or size > MAX_ROW_BYTES:
                break
        if not taken:
            return
        number += 1
        tally.lines = number
        if inside or size - 1 > MAX_ROW_BYTES:
            tally.refuse(number, _OPEN_QUOTE if inside else TOO_LONG)
            if inside:
                waiting.extendleft(line.encode("utf-8", "surrogateescape") for line in reversed(taken[1:]))
            else:
                number += len(taken) - 1
        elif not any(line.strip() for line in taken):
            tally.blank += 1
        else:
            yield number, "\n".join(taken)
            number += len(taken) - 1
            tally.lines = number


def still_open(line: str, inside: bool) -> bool:
    """Whether a quoted field goes on after this line."""
    at = 0
    while True:
        if not inside:
            if not line.startswith('"', at):
                at = line.find(",", at) + 1
                if not at:
                    return False
                continue
            at += 1
        at = _closing_quote(line, at)
        if at < 0:
            return True
        inside, at = False, line.find(",", at) + 1
        if not at:
            return False


def _closing_quote(line: str, at: int) -> int:
    while (at := line.find('"', at)) >= 0 and line.startswith('"', at + 1):
        at += 2
    return at
