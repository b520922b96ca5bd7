"""A source of labelled rows: which files, in which format, cut into which splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from ts4s_core.data.data_engine import DataEngine, TableSource
from ts4s_core.data.files import SourceFile, SourceFiles, choose_format, failures, files_of_format
from ts4s_core.data.formats import arrow, csv_rows, docstrings, json_rows, parquet, tsv
from ts4s_core.data.formats.decoding import HEAD_BYTES, as_utf8, is_plain
from ts4s_core.data.formats.lines import lines_between, text_lines
from ts4s_core.data.formats.rows import Columns, Dialect, Record, Row, Tally, rows_of
from ts4s_core.errors import SourceError
from ts4s_core.settings import SPARK_FORMATS, DataSettings, StorageSettings

SPLIT_BYTES = 64 * 2**20
# A small file is cut too, so that its text is tokenised in parallel; but every split loads the tokenizer.
SMALL_SPLIT_BYTES = 4 * 2**20
SPLITS_OF_SMALL = 8
DOCSTRING_ROWS_PER_SPLIT = 500
#: Formats whose rows have named columns, which folders may name too.
PARTITIONED = ("csv", "json", "parquet", "arrow")


@dataclass(frozen=True)
class Split:
    """What one task reads.

    Attributes:
        name: file (or table) that errors show.
        file: the file, where there is one.
        start: first byte of a range (parquet: the row group; arrow: 0).
        end: end of the range; None: the end of the file.
        rows: the rows themselves, as (label, text), of a source that only the driver can read.
        partition: a partition of a Spark table; on an executor its rows.
        array: the file is one JSON array.
    """

    name: str
    file: SourceFile | None = None
    start: int = 0
    end: int | None = None
    rows: tuple[tuple[str, str], ...] = ()
    partition: Any = None
    array: bool = False


@dataclass(frozen=True)
class DataSource:
    """A source whose format and files are known. Picklable; ``read`` runs anywhere.

    Attributes:
        format: its format.
        files: how to open its files.
        columns: the text and the label column.
        splits: ranges of its files, in order of file and place; ``read`` gives the rows of one.
    """

    format: str
    files: SourceFiles
    columns: Columns
    splits: Sequence[Split] = ()

    def without_splits(self) -> DataSource:
        """The same source, small enough to send to every task."""
        return replace(self, splits=())

    def read(self, split: Split, tally: Tally) -> Iterator[Row]:
        """The good rows of a split, in order; everything else is tallied.

        Raises:
            SourceError: if the file cannot be read.
            DataError: if a header lacks a column, or the file is not of its format.
        """
        records = self._cells(split, tally) if split.file is None else read_records(self.reading, split, tally)
        with failures(split.name):
            yield from rows_of(records, self.columns, tally)

    @property
    def reading(self) -> Reading:
        """How its files are read."""
        columns = self.columns
        return Reading(self.format, self.files, columns.named, columns.dialect, columns.show_text, by_label=True)

    def _cells(self, split: Split, tally: Tally) -> Iterator[Record]:
        return parquet.cell_records(split.rows if split.partition is None else split.partition, tally)


@dataclass(frozen=True)
class Reading:
    """Which columns training and prediction read of files, and how the files are written.

    Attributes:
        format: of files.
        files: how to open them.
        named: columns, each with the setting that names it; of tsv they are label and text.
        dialect: of csv.
        show_text: whether errors may quote the data.
        by_label: the first column is the label.
    """

    format: str
    files: SourceFiles
    named: Sequence[tuple[str, str]]
    dialect: Dialect
    show_text: bool
    by_label: bool = False


def read_records(reading: Reading, split: Split, tally: Tally) -> Iterator[Record]:
    """Every record of a split of a file, in order, with the cells of the columns; blank lines are tallied.

    Raises:
        SourceError: if the file cannot be read.
        DataError: if a header lacks a column, or the file is not of its format.
    """
    assert split.file is not None, "rows that are no file's are at hand"
    given = dict(split.file.columns) if reading.format in PARTITIONED else {}
    own = [(column, setting) for column, setting in reading.named if column not in given]
    with failures(split.name), reading.files.open(split.file) as file:
        records = _records(reading, own, file, split, tally)
        if len(own) == len(reading.named):
            yield from records
            return
        places = {column: place for place, (column, _setting) in enumerate(own)}
        for record in records:
            if record.cells or not (own or record.reason):
                cells = (given[name] if name in given else record.cells[places[name]] for name, _setting in reading.named)
                record = replace(record, cells=tuple(cells))
            yield record


def _records(reading: Reading, own: Sequence[tuple[str, str]], file: BinaryIO, split: Split, tally: Tally) -> Iterator[Record]:
    names = [column for column, _setting in own]
    if reading.format == "arrow":
        return _damages_named(
            parquet.damages(split.name, kind=arrow.KIND), parquet.cell_records(arrow.rows_in(file, names), tally)
        )
    if reading.format == "parquet":
        return _damages_named(parquet.damages(split.name), parquet.cell_records(parquet.rows_in(file, split.start, names), tally))
    # A file that is cut into splits is plain UTF-8.
    text = file if split.start else as_utf8(file, split.name)
    if split.array:
        return json_rows.array_records(text, split.name, names, tally, show_text=reading.show_text)
    # The size of a text that is decoded on the way is not known.
    lines = lines_between(text, split.start, split.end if text is file else None)
    if reading.format == "csv":
        reader = csv_rows.CsvReader(split.name, own, dialect=reading.dialect, show_text=reading.show_text)
        return reader.read(lines, tally, by_label=reading.by_label and len(own) == len(reading.named))
    if reading.format == "json":
        return json_rows.line_records(lines, names, tally, show_text=reading.show_text)
    return tsv.records(lines, tally) if reading.format == "tsv" else text_lines(lines, tally)


def _damages_named(named: AbstractContextManager[None], records: Iterator[Record]) -> Iterator[Record]:
    with named:
        yield from records


def open_source(
    data: DataSettings, storage: StorageSettings, engine: DataEngine, *, multi_label: bool = False, split_bytes: int | None = None
) -> DataSource:
    """Find a source's files, settle its format, and cut it into splits. Reads no more than the files' ends.

    Args:
        data: source, format, columns.
        storage: credentials for an ``s3://`` source.
        engine: opens a Spark table.
        multi_label: whether a label cell may hold several labels.
        split_bytes: most bytes of a split, for the formats that can be cut by lines; None: by the size of the whole.

    Raises:
        SourceError: if there is no such source, or its format is not clear.
        DataError: if a Parquet file or a table lacks a column.
    """
    dialect = Dialect(data.csv_escape, data.csv_escape_unquoted)
    columns = Columns(data.text_column, data.label_column, multi_label, data.show_text, dialect)
    files = SourceFiles(data.source, storage)
    if data.format == "docstrings" or (data.format is None and not data.source):
        return DataSource("docstrings", files, columns, docstring_splits(data))
    if not data.source:
        raise SourceError(f"data.source is empty: data.format {data.format} needs a file, a folder, a glob or a table")
    if data.format in SPARK_FORMATS:
        partitions = engine.table_partitions(TableSource.of(data), columns.named)
        return DataSource(data.format, files, columns, [Split(data.source, partition=each) for each in partitions])
    found, single = files.find()
    chosen = data.format or choose_format(data.source, found)
    if chosen == "text":
        raise SourceError(
            f"data.source {data.source} is plain text, which has no labels: it is for model.task language-model. "
            "If its lines are label<TAB>text, set data.format tsv"
        )
    if not single:
        found = files_of_format(data.source, found, chosen)
    if split_bytes is None:
        split_bytes = min(max(sum(file.size for file in found) // SPLITS_OF_SMALL, SMALL_SPLIT_BYTES), SPLIT_BYTES)
    return DataSource(chosen, files, columns, list(file_splits(files, found, chosen, split_bytes, named=columns.named)))


def docstring_splits(data: DataSettings) -> list[Split]:
    """The docstrings of the libraries that the settings name, some in each split."""
    libraries = docstrings.libraries_of(data.source)
    pairs = docstrings.read_docstrings(libraries, rows=data.max_rows or docstrings.DEFAULT_ROWS)
    size = DOCSTRING_ROWS_PER_SPLIT
    return [Split("docstrings", rows=tuple(pairs[start : start + size])) for start in range(0, len(pairs), size)]


def file_splits(
    files: SourceFiles,
    found: Sequence[SourceFile],
    chosen: str,
    split_bytes: int,
    *,
    named: Sequence[tuple[str, str]],
) -> Iterator[Split]:
    """Files cut into splits, in order; empty files have none.

    Args:
        files: how to open them.
        found: the files.
        chosen: their format.
        split_bytes: bytes of a split, for the formats that can be cut by lines.
        named: columns that a Parquet file must have, each with the setting that names it.
    """
    for file in found:
        if file.size == 0:
            continue
        own = [(column, setting) for column, setting in named if column not in dict(file.columns)]
        if chosen == "arrow":
            with files.open(file) as reader:
                arrow.check_file(reader, file.name, own)
            yield Split(file.name, file)
            continue
        if chosen == "parquet":
            with files.open(file) as reader:
                groups = parquet.row_groups_in(reader, file.name, own)
            yield from (Split(file.name, file, group) for group in range(groups))
            continue
        if chosen == "json" and _is_array(files, file, [column for column, _setting in named]):
            yield Split(file.name, file, array=True)
        elif chosen == "csv" or (file.size > split_bytes and not is_plain(_head(files, file))):
            # A line end may stand inside quotes, and what is decoded on the way has no place to begin at but its beginning.
            yield Split(file.name, file)
        else:
            for start in range(0, file.size, split_bytes):
                yield Split(file.name, file, start, min(start + split_bytes, file.size))


def _head(files: SourceFiles, file: SourceFile) -> bytes:
    with files.open(file) as reader:
        return reader.read(HEAD_BYTES)


def _is_array(files: SourceFiles, file: SourceFile, names: Sequence[str]) -> bool:
    with files.open(file) as reader:
        head = as_utf8(reader, file.name).read(HEAD_BYTES)
    if not json_rows.is_array(head):
        json_rows.refuse_whole(head, file.name, names)
        return False
    return True
