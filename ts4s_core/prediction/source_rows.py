"""The texts of a source, labelled or not: every row comes out, the ones that cannot be predicted with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ts4s_core.data.data_engine import DataEngine, TableSource
from ts4s_core.data.files import SourceFile, SourceFiles, choose_format, failures, files_of_format
from ts4s_core.data.formats.cell_types import id_text
from ts4s_core.data.formats.rows import RFC_4180, Dialect, Record, Tally, encodable, text_of
from ts4s_core.data.sources import PARTITIONED, Reading, Split, docstring_splits, file_splits, read_records
from ts4s_core.errors import SourceError
from ts4s_core.settings import SPARK_FORMATS, DataSettings, StorageSettings

#: Work is cut finer than for training: the model takes the time, and the slowest split is waited for.
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
    #: a partition of a Spark table; on an executor its rows, which the engine puts here
    partition: Any = None


@dataclass(frozen=True)
class TextSource:
    """A source of texts whose format and files are known. Picklable; ``read`` runs anywhere.

    Attributes:
        format: its format.
        files: how to open its files.
        text_column: the column of the text.
        id_column: the column that names a row; empty: none.
        splits: of its files, in order of file and place.
        show_text: whether messages may quote the data.
        dialect: of csv.
    """

    format: str
    files: SourceFiles
    text_column: str
    id_column: str
    splits: Sequence[TextSplit] = ()
    show_text: bool = True
    dialect: Dialect = RFC_4180

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """Each column with the setting that names it, the text first."""
        text = (self.text_column, "text_column")
        return (text, (self.id_column, "id_column")) if self.id_column else (text,)

    def without_splits(self) -> TextSource:
        """The same source, small enough to send to every task."""
        return replace(self, splits=())

    def read(self, task: TextSplit) -> Iterator[TextRow]:
        """Every row of a split, in order; blank lines are not rows. Each line that a bad row swallowed is one that is bad.

        Raises:
            SourceError: if the file cannot be read.
            DataError: if a header lacks a column, or the file is not of its format.
        """
        split = task.split
        if split.file is None:
            with failures(split.name):
                yield from (row_of(text) for _label, text in split.rows) if task.partition is None else _rows_of(task.partition)
            return
        reading = Reading("text" if self.format == "tsv" else self.format, self.files, self.named, self.dialect, self.show_text)
        where = split.name if not split.start else f"{split.name} from byte {split.start} on"
        for record in read_records(reading, split, Tally()):
            row = self._row(record)
            if self.format in ("parquet", "arrow") or row.reason is None:
                yield row
                continue
            for line in range(record.line, record.line + record.lines):
                yield replace(row, reason=f"{where} line {line}: {row.reason}")

    def _row(self, record: Record) -> TextRow:
        if record.reason is not None:
            return TextRow(None, id_text(record.cells[1]) if len(record.cells) > 1 else None, record.reason)
        return _after_tab(str(record.cells[0])) if self.format == "tsv" else row_of(*record.cells)


def _rows_of(cells_of_rows: Iterable[tuple[object, ...]]) -> Iterator[TextRow]:
    """Of tuples of a text and, where there is one, an id."""
    return (row_of(*values) for values in cells_of_rows)


def _after_tab(line: str) -> TextRow:
    """Of ``label<TAB>text`` the text; a line without a tab is text."""
    _label, tab, text = line.partition("\t")
    return row_of(text if tab else line)


def row_of(text: object, named: object = None) -> TextRow:
    """The row of a text cell and an id cell, or the reason why it cannot be predicted."""
    name = id_text(named)
    if name is not None and not encodable(name):
        name = None
    words = text_of(text)
    if words.reason is not None:
        return TextRow(None, name, "null text" if text is None else words.reason)
    return TextRow(words.text, name)


def open_texts(data: DataSettings, storage: StorageSettings, engine: DataEngine, *, slots: int) -> TextSource:
    """Find a source's files, settle its format, and cut it into splits. Reads no more than the files' ends.

    Args:
        data: source, format, columns.
        storage: credentials for an ``s3://`` source.
        engine: opens a Spark table.
        slots: tasks that run at once.

    Raises:
        SourceError: if there is no such source, or its format is not clear.
        DataError: if a Parquet file or a table lacks a column.
    """
    files = SourceFiles(data.source, storage)
    if data.format == "docstrings" or (data.format is None and not data.source):
        source = TextSource("docstrings", files, data.text_column, "")
        return replace(source, splits=_numbered(docstring_splits(data), slots))
    if not data.source:
        raise SourceError(f"data.source is empty: data.format {data.format} needs a file, a folder, a glob or a table")
    if data.format in SPARK_FORMATS:
        source = TextSource(data.format, files, data.text_column, data.id_column)
        partitions = engine.table_partitions(TableSource.of(data), source.named)
        # The engine matches splits and partitions by number: they are not shared.
        return replace(source, splits=[TextSplit(at, Split(data.source), partition=each) for at, each in enumerate(partitions)])
    found, single = files.find()
    chosen = data.format or choose_format(data.source, found)
    if not single:
        found = files_of_format(data.source, found, chosen)
    named = data.id_column if chosen in PARTITIONED else ""
    dialect = Dialect(data.csv_escape, data.csv_escape_unquoted)
    source = TextSource(chosen, files, data.text_column, named, show_text=data.show_text, dialect=dialect)
    return replace(source, splits=_numbered(_file_splits(source, found), slots))


def _numbered(splits: Sequence[Split], slots: int) -> list[TextSplit]:
    """Numbers in the order of the rows; where there are fewer splits than slots, several tasks share each."""
    shares = -(-slots // len(splits)) if splits and len(splits) < slots else 1
    return [TextSplit(number, split, share, shares) for number, split in enumerate(splits) for share in range(shares)]


def _file_splits(source: TextSource, found: Sequence[SourceFile]) -> list[Split]:
    size = min(max(sum(file.size for file in found) // SPLITS, LEAST_SPLIT_BYTES), MOST_SPLIT_BYTES)
    return list(file_splits(source.files, found, source.format, size, named=source.named))
