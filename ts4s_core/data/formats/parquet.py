"""Parquet: row groups as splits, rows counted from 1 in place of lines."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ts4s_core.data.formats.cell_types import TEXT, kind_of_arrow, refused_type
from ts4s_core.data.formats.parquet_footer import read_groups
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, Record, Tally, check_columns
from ts4s_core.errors import DataError, Ts4sError

BATCH_ROWS = 1_024
#: A column of a row group may unfold to this and the longest rows that are taken; more is made to fill the memory.
UNFOLDED_BYTES = 64 * 2**20
#: ... and beyond 256 MiB to so many times what it takes in the file.
MOST_FOLD, FOLD_FROM_BYTES = 1_000, 256 * 2**20


@contextlib.contextmanager
def damages(name: str, *, kind: str = "Parquet") -> Iterator[None]:
    """What PyArrow raises at a damaged file as one DataError; what the filesystem raises (OSError) is left as it is."""
    try:
        yield
    except (Ts4sError, OSError, MemoryError):
        raise
    except (pa.ArrowException, ValueError, TypeError, ArithmeticError, LookupError, NotImplementedError) as exc:
        reason = f"{type(exc).__name__}: {exc}".rstrip(".")
        raise DataError(f"Data file {name} is not a readable {kind} file: {reason}. Write it again") from exc


def row_groups_in(file: BinaryIO, name: str, wanted: Sequence[tuple[str, str]]) -> int:
    """The number of row groups of a file that has the columns.

    Args:
        file: the file.
        name: what errors call it.
        wanted: columns, each with the setting that names it.

    Raises:
        DataError: if it is not a Parquet file, lacks a column or has one of another type, or is made to fill the memory.
    """
    with damages(name):
        parquet = pq.ParquetFile(file)
        check_schema(parquet.schema_arrow, name, wanted)
        refuse_bombs(file, name, [column for column, _setting in wanted])
        return int(parquet.num_row_groups)


def check_schema(schema: pa.Schema, name: str, wanted: Sequence[tuple[str, str]], *, texts: Container[str] = ()) -> None:
    """Check that a file has the columns, of types that are taken.

    Args:
        schema: the file's.
        name: what errors call it.
        wanted: columns, each with the setting that names it.
        texts: columns whose cells are read as texts, whatever the type in the file is.

    Raises:
        DataError: if it lacks a column or has one of another type.
    """
    check_columns(schema.names, name, wanted)
    for column, setting in wanted:
        kind = schema.field(column).type
        found = TEXT if column in texts else kind_of_arrow(kind)
        problem = refused_type(f"Data file {name}", column, found, shown=str(kind), setting=setting)
        if problem:
            raise DataError(problem)


def refuse_bombs(file: BinaryIO, name: str, wanted: Sequence[str]) -> None:
    """Refuse a file whose columns unfold to far more than their rows can need.

    Raises:
        DataError: naming row group and column.
        ValueError: if the file has no footer.
    """
    for number, group in enumerate(read_groups(file)):
        rows_need = UNFOLDED_BYTES + group.rows * MAX_ROW_BYTES
        for chunk in group.chunks:
            if chunk.path[:1] and chunk.path[0] not in wanted:
                continue
            unfolded, folded = chunk.unfolded, max(1, chunk.folded)
            if unfolded > rows_need or (unfolded > FOLD_FROM_BYTES and unfolded > MOST_FOLD * folded):
                raise DataError(
                    f"Data file {name} is refused: {group.rows} rows of {'.'.join(chunk.path)!r} in row group {number} "
                    f"take {folded} bytes and unfold to {unfolded}: only a file made to fill the memory does. Write it again"
                )


def cell_records(rows: Iterable[tuple[object, ...]], tally: Tally) -> Iterator[Record]:
    """Rows of cells as records, counted as lines are."""
    for cells_of_row in rows:
        tally.lines += 1
        yield Record(tally.lines, cells_of_row)


def rows_in(file: BinaryIO, group: int, names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """The cells of some columns of one row group, row by row."""
    # As dictionaries where they are stored so: a long text that many rows share is held once.
    parquet = pq.ParquetFile(file, read_dictionary=_dictionaries(file, group, names))
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(names), use_threads=False):
        yield from zip(*(cells(batch.column(batch.schema.names.index(name))) for name in names), strict=True)


def cells(column: pa.Array) -> list[object]:
    """Python values; text that is no UTF-8 (Arrow does not look) comes with half characters in it."""
    if pa.types.is_dictionary(column.type):
        values = cells(column.dictionary)
        return [None if index is None else values[index] for index in column.indices.to_pylist()]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in column.view(binary).to_pylist()]
    return list(column.to_pylist())


def _dictionaries(file: BinaryIO, group: int, names: Sequence[str]) -> list[str]:
    """The text columns that this row group keeps a dictionary of."""
    return [
        chunk.path[0]
        for chunk in read_groups(file)[group].chunks
        if len(chunk.path) == 1 and chunk.path[0] in names and chunk.has_dictionary and chunk.is_text
    ]
