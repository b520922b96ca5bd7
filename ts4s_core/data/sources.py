"""A source of labelled rows: which files, in which format, cut into which splits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.files import SourceFile, SourceFiles, choose_format, failures, files_of_format
from ts4s_core.data.formats import csv_rows, docstrings, json_rows, parquet, tsv
from ts4s_core.data.formats.lines import lines_between
from ts4s_core.data.formats.rows import Columns, Row, Tally
from ts4s_core.errors import SourceError
from ts4s_core.settings import DataSettings, StorageSettings

SPLIT_BYTES = 64 * 2**20
# A small file is cut too, so that its text is tokenised in parallel; but every split loads the tokenizer.
SMALL_SPLIT_BYTES = 4 * 2**20
SPLITS_OF_SMALL = 8
DOCSTRING_ROWS_PER_SPLIT = 500
_HEAD_BYTES = 4_096


@dataclass(frozen=True)
class Split:
    """What one task reads.

    Attributes:
        name: file (or table) that errors show.
        file: the file, where there is one.
        start: first byte of a range (parquet: the row group).
        end: end of the range; None: the end of the file.
        rows: the rows themselves, as (label, text), of a source that only the driver can read.
        part: a part of a Spark table.
        array: the file is one JSON array.
    """

    name: str
    file: SourceFile | None = None
    start: int = 0
    end: int | None = None
    rows: tuple[tuple[str, str], ...] = ()
    part: Any = None
    array: bool = False


@dataclass(frozen=True)
class DataSource:
    """A source whose format and files are known. Picklable; ``read`` runs anywhere.

    Attributes:
        format: its format.
        files: how to open its files.
        columns: the text and the label column.
        splits: its parts, in order of file and place; ``read`` gives the rows of one.
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
        with failures(split.name):
            if split.file is None:
                yield from _read_cells(split.rows if split.part is None else split.part, self.columns, tally)
                return
            with self.files.open(split.file) as file:
                if self.format == "parquet":
                    with parquet.damages(split.name):
                        yield from parquet.read_parquet(file, split.start, self.columns, tally)
                elif split.array:
                    yield from json_rows.read_json_array(file, split.name, self.columns, tally)
                else:
                    yield from self._read_lines(lines_between(file, split.start, split.end), split, tally)

    def _read_lines(self, lines: Iterator[bytes], split: Split, tally: Tally) -> Iterator[Row]:
        if self.format == "tsv":
            return tsv.read_tsv(lines, self.columns, tally)
        if self.format == "csv":
            return csv_rows.read_csv(lines, split.name, self.columns, tally)
        return json_rows.read_json_lines(lines, self.columns, tally)


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
        SourceError: if there is no such source, or its format cannot be told.
        DataError: if a Parquet file or a table lacks a column.
    """
    columns = Columns(data.text_column, data.label_column, multi_label, data.show_text)
    files = SourceFiles(data.source, storage)
    if data.format == "docstrings" or (data.format is None and not data.source):
        return DataSource("docstrings", files, columns, docstring_splits(data))
    if not data.source:
        raise SourceError(f"data.source is empty: data.format {data.format} needs a file, a folder, a glob or a table")
    if data.format == "table":
        parts = engine.table_parts(data.source, (columns.label, columns.text))
        return DataSource("table", files, columns, [Split(data.source, part=part) for part in parts])
    found, single = files.find()
    chosen = data.format or choose_format(data.source, found)
    if chosen == "text":
        raise SourceError(
            f"data.source {data.source} is plain text, which has no labels: it is for model.task language-model. "
            "If its lines are label<TAB>text, set data.format tsv"
        )
    if not single:
        found = files_of_format(found, chosen)
    if split_bytes is None:
        split_bytes = min(max(sum(file.size for file in found) // SPLITS_OF_SMALL, SMALL_SPLIT_BYTES), SPLIT_BYTES)
    row_groups = functools.partial(parquet.row_groups_in, wanted=columns.named, text=columns.text)
    return DataSource(chosen, files, columns, list(file_splits(files, found, chosen, split_bytes, row_groups=row_groups)))


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
    row_groups: Callable[[BinaryIO, str], int],
) -> Iterator[Split]:
    """Files cut into splits, in order; empty files have none.

    Args:
        files: how to open them.
        found: the files.
        chosen: their format.
        split_bytes: bytes of a split, for the formats that can be cut by lines.
        row_groups: counts those of a Parquet file, and checks its columns.
    """
    for file in found:
        if file.size == 0:
            continue
        if chosen == "parquet":
            with files.open(file) as reader:
                groups = row_groups(reader, file.name)
            yield from (Split(file.name, file, group) for group in range(groups))
        elif chosen == "csv":
            # A line end may stand inside quotes, and only a reader from the start can tell.
            yield Split(file.name, file)
        elif chosen == "json" and _is_array(files, file):
            yield Split(file.name, file, array=True)
        else:
            for start in range(0, file.size, split_bytes):
                yield Split(file.name, file, start, min(start + split_bytes, file.size))


def _is_array(files: SourceFiles, file: SourceFile) -> bool:
    with files.open(file) as reader:
        return json_rows.is_array(reader.read(_HEAD_BYTES))


def _read_cells(
    cells: Iterator[tuple[object, object]] | Sequence[tuple[object, object]], columns: Columns, tally: Tally
) -> Iterator[Row]:
    for label, text in cells:
        tally.lines += 1
        row = parquet.checked_row(label, text, columns)
        if isinstance(row, str):
            tally.refuse(tally.lines, row)
        else:
            yield row
