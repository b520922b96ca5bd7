"""Arrow files, as the library datasets saves them (``save_to_disk``) and as Feather is: rows counted from 1 in place of lines.

A column that the library knows as ``ClassLabel`` holds numbers; the names that stand in the file's schema are its cells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from ts4s_core.data.formats.parquet import cells, check_schema, damages

#: What errors call such a file.
KIND = "Arrow"
_FILE_MAGIC = b"ARROW1"
#: Where the library datasets describes its columns.
_FEATURES = b"huggingface"


def check_file(file: BinaryIO, name: str, wanted: Sequence[tuple[str, str]]) -> None:
    """Check that a file has the columns, of types that are taken.

    Args:
        file: the file.
        name: what errors call it.
        wanted: columns, each with the setting that names it.

    Raises:
        DataError: if it is no Arrow file, lacks a column or has one of another type.
    """
    with damages(name, kind=KIND):
        schema = _opened(file)[0]
        check_schema(schema, name, wanted, texts=_class_names(schema))


def rows_in(file: BinaryIO, names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """The cells of some columns, row by row; a batch of the file is in memory at a time."""
    schema, batches = _opened(file)
    classes = _class_names(schema)
    for batch in batches:
        columns = [_cells(batch.column(batch.schema.get_field_index(name)), classes.get(name)) for name in names]
        yield from zip(*columns, strict=True)


def _opened(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and batches, of a stream of Arrow's or of its file format."""
    head = file.read(len(_FILE_MAGIC))
    file.seek(0)
    if head != _FILE_MAGIC:
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    whole = pa.ipc.open_file(file)
    return whole.schema, (whole.get_batch(number) for number in range(whole.num_record_batches))


def _cells(column: pa.Array, classes: Sequence[str] | None) -> list[object]:
    found = cells(column)
    if classes is None:
        return found
    # The library writes -1 where a row has no label.
    return [None if cell is None or cell == -1 else classes[cell] for cell in found]  # type: ignore[call-overload]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of each column that has some."""
    described = (schema.metadata or {}).get(_FEATURES)
    if described is None:
        return {}
    found: Any = json.loads(described)
    features = found.get("info", {}).get("features") or {}
    return {
        str(column): [str(name) for name in feature["names"]]
        for column, feature in features.items()
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }
