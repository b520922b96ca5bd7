"""The Parquet files of a dataset: columns, order, sizes. Their bytes follow from the rows alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL

ROWS_PER_GROUP = 256
ROWS_PER_FILE = 65_536
# Texts spread over the buckets by hash: with this many on average, no bucket comes near ROWS_PER_FILE.
ROWS_PER_BUCKET = 49_152
# A bucket is held in memory as a whole.
TEXT_BYTES_PER_BUCKET = 256 * 2**20
ID_BYTES = 16
#: What the dataset of a language model says of itself, and its file of the windows in each row group.
TASK = LANGUAGE_MODEL.name
WINDOWS_FILE = "windows.json"


def side_schema(*, multi_label: bool) -> pa.Schema:
    """Columns of a side: id (16 bytes of the text's sha256), label (index, or indices), input_ids, length, text."""
    label = pa.list_(pa.int32()) if multi_label else pa.int32()
    return pa.schema(
        [
            pa.field("id", pa.binary(ID_BYTES), nullable=False),
            pa.field("label", label, nullable=False),
            pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
        ]
    )


def buckets_for(rows: int, text_bytes: int) -> int:
    """Number of id ranges (a power of two) that a side of so many rows and bytes is cut into; each becomes a file."""
    buckets = 1
    while rows > buckets * ROWS_PER_BUCKET or text_bytes > buckets * TEXT_BYTES_PER_BUCKET:
        buckets *= 2
    return buckets


def bucket_of(row_id: bytes, buckets: int) -> int:
    """The id range of a row, so that the files in order are the rows in order."""
    return int.from_bytes(row_id[:4], "big") * buckets >> 32


def write_rows(table: pa.Table, path: Path, *, rows_per_group: int | None = None) -> None:
    """Write one file, in row groups of ``ROWS_PER_GROUP`` rows by default.

    Equal rows give equal bytes: no statistics, no dictionaries that depend on a page's fill.
    """
    size = rows_per_group or ROWS_PER_GROUP
    with RowGroupWriter(path, table.schema, rows_per_group=size, plain=True, compression_level=3) as writer:
        writer.write(table)


#: Text of a row group of a language model's side: what is read at once.
TEXT_BYTES_PER_GROUP = 2**20
#: Text of a file of it: what is put in order in memory.
TEXT_BYTES_PER_FILE = 16 * 2**20


def text_schema() -> pa.Schema:
    """Columns of a side of a language model's dataset: a row is a block of text.

    id (16 bytes of the text's sha256), input_ids, length (tokens), bytes (of the text as UTF-8), unknown_bytes (of them, those
    that became unknown tokens), starts (of the windows, within input_ids), text.
    """
    return pa.schema(
        [
            pa.field("id", pa.binary(ID_BYTES), nullable=False),
            pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("bytes", pa.int32(), nullable=False),
            pa.field("unknown_bytes", pa.int32(), nullable=False),
            pa.field("starts", pa.list_(pa.int32()), nullable=False),
            pa.field("text", pa.string(), nullable=False),
        ]
    )


def blocks_per_group(block_bytes: int) -> int:
    """Rows of a row group of blocks of that size."""
    return max(1, min(ROWS_PER_GROUP, TEXT_BYTES_PER_GROUP // block_bytes))


def text_buckets_for(text_bytes: int) -> int:
    """Number of id ranges (a power of two) that a side of so many bytes is cut into; each becomes a file."""
    buckets = 1
    while text_bytes > buckets * TEXT_BYTES_PER_FILE:
        buckets *= 2
    return buckets
