"""The texts of a source, labelled or not: every row comes out, the ones that cannot be predicted with the reason."""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.files import SourceFile, SourceFiles, choose_format, failures, files_of_format
from ts4s_core.data.formats import csv_rows, json_rows, parquet
from ts4s_core.data.formats.lines import lines_between, text_lines
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, NOT_UTF8, TOO_LONG, Tally, check_columns, encodable, named_columns
from ts4s_core.data.sources import Split, docstring_splits, file_splits
from ts4s_core.errors import SourceError
from ts4s_core.settings import DataSettings, StorageSettings

#: Work is cut finer than for training: the model takes the time, and the slowest part is waited for.
SPLITS = 64
LEAST_SPLIT_BYTES = 64 * 2**10
MOST_SPLIT_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row: its text, trimmed, or why it has none; ``id`` is what the id column holds, as text."""

    text: str | None
    id: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class TextSplit:
    """What one task reads: a split; of a file that cannot be cut, every ``of``-th chunk of rows, from ``share`` on."""

    number: int
    split: Split
    share: int = 0
    of: int = 1
    #: a part of a Spark table; on an executor its rows, which the engine puts here
    part: Any = None


@dataclass(frozen=True)
class TextSource:
    """A source of texts whose format and files are known. Picklable; ``read`` runs anywhere.

    Attributes:
        format: its format.
        files: how to open its files.
        text_column: the column of the text.
        id_column: the column that names a row; empty: none.
        splits: its parts, in order of file and place.
        show_text: whether messages may quote the data.
    """

    format: str
    files: SourceFiles
    text_column: str
    id_column: str
    splits: Sequence[TextSplit] = ()
    show_text: bool = True

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """Each column with the setting that names it, the text first."""
        text = (self.text_column, "text_column")
        return (text, (self.id_column, "id_column")) if self.id_column else (text,)

    def without_splits(self) -> TextSource:
        """The same source, small enough to send to every task."""
        return replace(self, splits=())

    def read(self, part: TextSplit) -> Iterator[TextRow]:
        """Every row of a split, in order; wholly blank lines are no rows.

        Raises:
            SourceError: if the file cannot be read.
            DataError: if a header lacks a column, or the file is not of its format.
        """
        split = part.split
        with failures(split.name):
            if split.file is None:
                yield from (row_of(text) for _label, text in split.rows) if part.part is None else _rows_of(part.part)
                return
            with self.files.open(split.file) as file:
                yield from self._read_file(file, split)

    def _read_file(self, file: BinaryIO, split: Split) -> Iterator[TextRow]:
        if self.format == "parquet":
            return self._parquet(file, split)
        tally = _Refused(where=split.name if not split.start else f"{split.name} from byte {split.start} on")
        if split.array:
            return tally.with_refused(
                tally.placed(line, self._json_value(value)) for line, _, value in json_rows.elements(file, split.name)
            )
        lines = lines_between(file, split.start, split.end)
        if self.format == "csv":
            return tally.with_refused(self._csv(csv_rows.records(lines, tally), split.name, tally))
        read = self._json_line if self.format == "json" else self._whole if self.format == "text" else _after_tab
        return tally.with_refused(tally.placed(number, read(line)) for number, line in text_lines(lines, tally))

    def _whole(self, line: str) -> TextRow:
        return row_of(line)

    def _json_line(self, line: str) -> TextRow:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            return TextRow(None, reason=f"not JSON: {exc}" if isinstance(exc, json.JSONDecodeError) else "not JSON")
        return self._json_value(value)

    def _json_value(self, value: object) -> TextRow:
        if not isinstance(value, dict):
            return TextRow(None, reason="not a JSON object")
        named = value.get(self.id_column) if self.id_column else None
        if self.text_column not in value:
            columns = named_columns(value, show_text=self.show_text)
            return TextRow(None, id_of(named), f"no column {self.text_column!r}, it has {columns}")
        return row_of(value[self.text_column], named)

    def _csv(self, records: Iterable[tuple[int, str]], name: str, tally: _Refused) -> Iterator[TextRow]:
        places: tuple[int, int | None, int] | None = None
        for number, record in records:
            try:
                fields = csv_rows.fields_of(record)
            except ValueError as exc:
                yield tally.placed(number, TextRow(None, reason=str(exc)))
                continue
            if places is None:
                places = self._places(fields, name)
                continue
            text, named, width = places
            if len(fields) != width:
                row = TextRow(None, reason=f"{len(fields)} fields where the header has {width}")
            else:
                row = row_of(fields[text], None if named is None else fields[named])
            yield tally.placed(number, row)

    def _places(self, header: list[str], name: str) -> tuple[int, int | None, int]:
        names = [entry.strip() for entry in header]
        check_columns(names, name, self.named, show_text=self.show_text)
        return names.index(self.text_column), names.index(self.id_column) if self.id_column else None, len(names)

    def _parquet(self, file: BinaryIO, split: Split) -> Iterator[TextRow]:
        names = [column for column, _setting in self.named]
        with parquet.damages(split.name):
            for values in parquet.rows_in(file, split.start, names):
                yield row_of(*values)


@dataclass
class _Refused(Tally):
    """Rows that a reader refuses, kept at their place among the good ones."""

    where: str = ""
    waiting: deque[TextRow] = field(default_factory=deque)

    def refuse(self, line: int, reason: str) -> None:
        """Note a row that has no text."""
        self.waiting.append(self.placed(line, TextRow(None, reason=reason)))

    def placed(self, line: int, row: TextRow) -> TextRow:
        """The row; a reason says where it stands."""
        return row if row.reason is None else TextRow(row.text, row.id, f"{self.where} line {line}: {row.reason}")

    def with_refused(self, rows: Iterable[TextRow]) -> Iterator[TextRow]:
        """The rows, each behind those that were refused before it."""
        for row in rows:
            while self.waiting:
                yield self.waiting.popleft()
            yield row
        yield from self.waiting


def _rows_of(cells_of_rows: Iterable[tuple[object, ...]]) -> Iterator[TextRow]:
    """Of tuples of a text and, where there is one, an id."""
    return (row_of(*values) for values in cells_of_rows)


def _after_tab(line: str) -> TextRow:
    """Of ``label<TAB>text`` the text; a line without a tab is text."""
    _label, tab, text = line.partition("\t")
    return row_of(text if tab else line)


def row_of(text: object, named: object = None) -> TextRow:
    """The row of a text cell and an id cell, or the reason why it cannot be predicted."""
    name = id_of(named)
    if text is None:
        return TextRow(None, name, "null text")
    if not isinstance(text, str):
        return TextRow(None, name, f"the text is a {type(text).__name__}, not a string")
    if not encodable(text):
        return TextRow(None, name, NOT_UTF8)
    if len(text) > MAX_ROW_BYTES or len(text.encode("utf-8")) > MAX_ROW_BYTES:
        return TextRow(None, name, TOO_LONG)
    text = text.strip()
    return TextRow(text, name) if text else TextRow(None, name, "empty text")


def id_of(cell: object) -> str | None:
    """An id as text."""
    if cell is None or isinstance(cell, str):
        return cell if cell is None or encodable(cell) else None
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, dict | list | bool) else str(cell)


def open_texts(data: DataSettings, storage: StorageSettings, engine: DataEngine, *, slots: int) -> TextSource:
    """Find a source's files, settle its format, and cut it into parts. Reads no more than the files' ends.

    Args:
        data: source, format, columns.
        storage: credentials for an ``s3://`` source.
        engine: opens a Spark table.
        slots: tasks that run at once.

    Raises:
        SourceError: if there is no such source, or its format cannot be told.
        DataError: if a Parquet file or a table lacks a column.
    """
    files = SourceFiles(data.source, storage)
    if data.format == "docstrings" or (data.format is None and not data.source):
        source = TextSource("docstrings", files, data.text_column, "")
        return replace(source, splits=_numbered(docstring_splits(data), slots))
    if not data.source:
        raise SourceError(f"data.source is empty: data.format {data.format} needs a file, a folder, a glob or a table")
    if data.format == "table":
        columns = (data.text_column, *((data.id_column,) if data.id_column else ()))
        parts = engine.table_parts(data.source, columns)
        source = TextSource("table", files, data.text_column, data.id_column)
        # The engine matches parts and partitions by number: they are not shared.
        return replace(source, splits=[TextSplit(at, Split(data.source), part=part) for at, part in enumerate(parts)])
    found, single = files.find()
    chosen = data.format or choose_format(data.source, found)
    if not single:
        found = files_of_format(found, chosen)
    named = data.id_column if chosen in ("csv", "json", "parquet") else ""
    source = TextSource(chosen, files, data.text_column, named, show_text=data.show_text)
    return replace(source, splits=_numbered(_file_splits(source, found), slots))


def _numbered(splits: Sequence[Split], slots: int) -> list[TextSplit]:
    """Numbers in the order of the rows; where there are fewer splits than slots, several tasks share each."""
    shares = -(-slots // len(splits)) if splits and len(splits) < slots else 1
    return [TextSplit(number, split, share, shares) for number, split in enumerate(splits) for share in range(shares)]


def _file_splits(source: TextSource, found: Sequence[SourceFile]) -> list[Split]:
    size = min(max(sum(file.size for file in found) // SPLITS, LEAST_SPLIT_BYTES), MOST_SPLIT_BYTES)
    row_groups = functools.partial(parquet.row_groups_in, wanted=source.named, text=source.text_column)
    return list(file_splits(source.files, found, source.format, size, row_groups=row_groups))
