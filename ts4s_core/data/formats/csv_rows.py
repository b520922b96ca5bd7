"""Comma-separated values after RFC 4180: a header, quoting with ``"``, line ends inside quotes; and with an escape before quotes.

A quote that is not closed in its place makes one record of many lines. What is lost so counts in lines, and a record whose
lines are rows themselves is refused, however well it reads.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence

from ts4s_core.data.formats.rows import MAX_ROW_BYTES, RFC_4180, TOO_LONG, Dialect, Record, Tally, check_columns
from ts4s_core.errors import DataError

_OPEN_QUOTE = "a quote that is not closed"
_AFTER_QUOTE = "text after a closing quote"
_SWALLOWED = "a quote that is not closed in its place: the lines that follow it read as rows"
_ESCAPED = re.compile(r'(?<!\\)(?:\\\\)*\\"')
_HINT = r"; a backslash stands before a quote: if it escapes the quote, as Spark writes csv, set data.csv_escape to \ "[:-1]
#: Where a field is: at its beginning, inside quotes, or outside of them behind a line end that is escaped.
_BEGIN, _QUOTED, _BARE = 0, 1, 2
#: Lines of one record that are looked at: by the labels of other rows, and by the number of fields alone.
_LINES_WITH_LABELS, _LINES_BY_FIELDS = 3, 20
_MOST_LABELS = 1_000


class CsvReader:
    """Reads records of some columns.

    Args:
        name: what errors call the file.
        wanted: columns, each with the setting that names it.
        dialect: how it is written.
        show_text: whether errors may quote the data.
    """

    def __init__(self, name: str, wanted: Sequence[tuple[str, str]], *, dialect: Dialect, show_text: bool) -> None:
        self._name, self._wanted, self._dialect, self._show_text = name, wanted, dialect, show_text

    def read(self, lines: Iterator[bytes], tally: Tally, *, by_label: bool) -> Iterator[Record]:
        """A record for every row below the header, with its cells or the reason why it has none; blank lines are tallied.

        Args:
            lines: of a whole file.
            tally: counts lines and blank ones.
            by_label: the first column is the label: rows inside a record are known by it.

        Raises:
            DataError: if the header lacks a column.
        """
        places: list[int] = []
        width, labels = 0, set[object]()
        for record in self._joined(lines, tally):
            fields: list[str] = []
            if record.reason is None:
                try:
                    fields = fields_of(record.source, self._dialect)
                except ValueError as exc:
                    hint = _HINT if not self._dialect.escape and _ESCAPED.search(record.source) else ""
                    record = _bad(record, f"{exc}{hint}")
            if not width and record.reason is None:
                places, width = self._places(fields), len(fields)
                continue
            if record.reason is None:
                record = self._cells(record, fields, places, width=width, labels=labels if by_label else None)
            yield record

    def _cells(self, record: Record, fields: list[str], places: list[int], *, width: int, labels: set[object] | None) -> Record:
        if len(fields) != width:
            return _bad(record, f"{len(fields)} fields where the header has {width}")
        if record.lines > _LINES_WITH_LABELS and self._swallowed(record, places, width=width, labels=labels):
            return _bad(record, _SWALLOWED)
        if labels is not None and len(labels) < _MOST_LABELS:
            labels.add(fields[places[0]].strip())
        return Record(record.line, tuple(fields[place] for place in places), None, record.lines, record.source)

    def _swallowed(self, record: Record, places: list[int], *, width: int, labels: set[object] | None) -> bool:
        """Whether half the lines after the first are rows: by their fields, and where labels are known, by these."""
        if width < 2 or (labels is None and record.lines <= _LINES_BY_FIELDS):
            return False
        inside = record.source.split("\n")[1:]
        alike = known = 0
        for line in inside:
            try:
                fields = fields_of(line, self._dialect)
            except ValueError:
                continue
            if len(fields) == width:
                alike += 1
                known += labels is not None and fields[places[0]].strip() in labels
        return 2 * known >= len(inside) or (len(inside) >= _LINES_BY_FIELDS and 2 * alike >= len(inside))

    def _places(self, header: list[str]) -> list[int]:
        names = [field.strip() for field in header]
        known = {column for column, _setting in self._wanted}
        if len(names) == 1 and names[0] not in known and (sign := next((sign for sign in ";\t|" if sign in names[0]), None)):
            raise DataError(
                f"Data file {self._name} has a header whose fields are apart by {sign!r}, not by ',': write it with commas"
                + (", or set data.format tsv for label<TAB>text without a header" if sign == "\t" else "")
            )
        place = " in its header"
        if any("\r" in field for field in names):
            place = " in its first line (its line ends are \\r alone: write them as \\n)"
        hint = ". A file without a header needs one (in Spark: option('header', True))"
        check_columns(names, self._name, self._wanted, place=place, hint=hint, show_text=self._show_text)
        return [names.index(column) for column, _setting in self._wanted]

    def _joined(self, lines: Iterator[bytes], tally: Tally) -> Iterator[Record]:
        """Records as their text: lines, joined while a quote is open.

        Where a quote is never closed, its line alone is bad, and reading goes on with the line after it.
        """
        waiting: deque[bytes] = deque()
        number = 0
        while True:
            taken: list[str] = []
            size, state = 0, _BEGIN
            for raw in iter(lambda: waiting.popleft() if waiting else next(lines, None), None):
                line = raw.decode("utf-8", "surrogateescape")
                size += len(raw) + 1
                taken.append(line)
                state = state_after(line, state, self._dialect)
                if state == _BEGIN or size > MAX_ROW_BYTES:
                    break
            if not taken:
                return
            number += 1
            tally.lines = number
            if state != _BEGIN:
                source = taken[0]
                hint = _HINT if not self._dialect.escape and _ESCAPED.search(source) else ""
                yield Record(number, reason=f"{_OPEN_QUOTE}{hint}")
                waiting.extendleft(line.encode("utf-8", "surrogateescape") for line in reversed(taken[1:]))
                continue
            if size - 1 > MAX_ROW_BYTES:
                yield Record(number, reason=TOO_LONG, lines=len(taken))
            elif not any(line.strip() for line in taken):
                tally.blank += 1
            else:
                yield Record(number, lines=len(taken), source="\n".join(taken))
            number += len(taken) - 1
            tally.lines = number


def _bad(record: Record, reason: str) -> Record:
    return Record(record.line, reason=reason, lines=record.lines)


def fields_of(record: str, dialect: Dialect = RFC_4180) -> list[str]:
    """The fields of one record.

    Raises:
        ValueError: saying which rule of quoting it breaks.
    """
    fields, at = [], 0
    while True:
        if record.startswith('"', at):
            value, at = _quoted(record, at + 1, dialect)
            if at < len(record) and record[at] != ",":
                raise ValueError(_AFTER_QUOTE)
        else:
            end = _end_of_bare(record, at, dialect)
            value, at = _bare(record[at:end], dialect), end
        fields.append(value)
        if at >= len(record):
            return fields
        at += 1


def _quoted(record: str, at: int, dialect: Dialect) -> tuple[str, int]:
    end = _closing_quote(record, at, dialect.escape)
    if end < 0:
        raise ValueError(_OPEN_QUOTE)
    value = record[at:end]
    if dialect.escape and dialect.escape in value:
        escape = re.escape(dialect.escape)
        value = re.sub(
            f'{escape}(.)|""' if dialect.everywhere else f'{escape}(["{escape}])|""', _unescaped, value, flags=re.DOTALL
        )
    else:
        value = value.replace('""', '"')
    return value, end + 1


def _unescaped(match: re.Match[str]) -> str:
    return match[1] or '"'


def _bare(value: str, dialect: Dialect) -> str:
    if not dialect.escape or dialect.escape not in value:
        return value
    if dialect.everywhere:
        return re.sub(f"{re.escape(dialect.escape)}(.)", r"\1", value, flags=re.DOTALL)
    if f'{dialect.escape}"' in value:
        raise ValueError("a quote is escaped outside of quotes: set data.csv_escape_unquoted true, for csv of pandas or Python")
    return value


def _end_of_bare(record: str, at: int, dialect: Dialect) -> int:
    """Where a field without quotes ends."""
    end = record.find(",", at)
    if dialect.everywhere and dialect.escape:
        while end >= 0 and _is_escaped(record, at, end, dialect.escape):
            end = record.find(",", end + 1)
    return len(record) if end < 0 else end


def _is_escaped(record: str, start: int, at: int, escape: str) -> bool:
    """Whether an odd number of escapes stands right before a place, none of them before ``start``."""
    count = 0
    while at - count > start and record[at - count - 1] == escape:
        count += 1
    return count % 2 == 1


def state_after(line: str, state: int, dialect: Dialect) -> int:
    """Where the field is that this line ends in: begun anew, or going on after the line."""
    at, carries = 0, dialect.everywhere and bool(dialect.escape)
    while True:
        if state != _QUOTED:
            if state == _BEGIN and line.startswith('"', at):
                state, at = _QUOTED, at + 1
                continue
            end = _end_of_bare(line, at, dialect)
            if end >= len(line):
                return _BARE if carries and _is_escaped(line, at, len(line), dialect.escape) else _BEGIN
            state, at = _BEGIN, end + 1
            continue
        at = _closing_quote(line, at, dialect.escape)
        if at < 0:
            return _QUOTED
        state, at = _BEGIN, line.find(",", at) + 1
        if not at:
            return _BEGIN


def _closing_quote(line: str, at: int, escape: str) -> int:
    start = at
    while (at := line.find('"', at)) >= 0:
        if escape and _is_escaped(line, start, at, escape):
            at += 1
        elif line.startswith('"', at + 1):
            at += 2
        else:
            return at
    return -1
