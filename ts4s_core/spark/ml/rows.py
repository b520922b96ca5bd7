"""The rows of a fit as a dataset artifact in scratch storage, written by the executors.

Rows are put into an order that follows from their content: each has an id, the first 16 bytes of the SHA-256 of its input
and its label; Spark deals rows out by the id's first bits and sorts each share by id. So neither the order of a DataFrame nor
its partitioning changes what is trained. Rows that are equal are interchangeable. The side of a row depends on its input and
the seed alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.artifacts.pieces import row_groups_of
from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter, stage_file
from ts4s_core.artifacts.versions.manifest import FileEntry, RowGroup
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.data.tokenizers import StoredTokenizer
from ts4s_core.errors import DataError
from ts4s_core.modules.inputs import InputForm, encoder
from ts4s_core.processes import give_back_memory
from ts4s_core.settings import StorageSettings
from ts4s_core.spark.ml.columns import OR_INVALID
from ts4s_core.spark.session.partition_keys import partition_keys

if TYPE_CHECKING:
    import torch
    from pyspark.sql import Column, DataFrame

ROWS_PER_FILE = 65_536
ROWS_PER_GROUP = 256
#: Numbers of a row group at most, so that a worker's two windows stay small for wide rows too.
NUMBERS_PER_GROUP = 262_144
#: Of rows that are encoded together: there are a few copies of them meanwhile.
BYTES_AT_ONCE = 1 << 22
SIDES = ("train", "validation")
MAX_LABELS = 100_000


@dataclass(frozen=True)
class RowSummary:
    """What counting and checking the rows gave.

    Attributes:
        rows: number of rows that can be trained on.
        widths: numbers in each input column.
        labels: label strings in order, if labels are strings.
        label_width: numbers of a label; 0: a class number, or none.
        classes: one more than the largest class number; None: labels are not classes.
    """

    rows: int
    widths: tuple[int, ...]
    labels: tuple[str, ...]
    label_width: int
    classes: int | None = None


def few_rows(rows: DataFrame, form: InputForm) -> list[Any]:
    """The first rows, and of whole numbers those with the largest, with the smallest and with most of them."""
    from pyspark.sql import functions as F

    few = rows.take(2)
    if form.whole and not form.text:
        first = F.expr("slice(x, 1, w0)") if form.tokens else F.col("x")
        whole = F.struct(*rows.columns)
        asked = (F.max_by(whole, F.array_max(first)), F.min_by(whole, F.array_min(first)), F.max_by(whole, F.size(first)))
        found = rows.agg(*asked).first()
        few += [row for row in found or () if row is not None]
    return few


def labels_of(rows: Sequence[Any], summary: RowSummary) -> torch.Tensor:
    """Labels of some rows of the columns x and y or none, as workers have them: (B,) int64, or (B, C) float32."""
    import torch

    if "y" not in rows[0]:
        return torch.tensor([row["x"] for row in rows], dtype=torch.float32)
    values = [row["y"] for row in rows]
    if isinstance(values[0], str):
        values = [summary.labels.index(value) for value in values]
    return torch.tensor(values, dtype=torch.float32 if isinstance(values[0], list) else torch.int64)


def summarise(rows: DataFrame, invalid: Column, *, label: str, widths: int, alike: int = 0) -> RowSummary:
    """Count and check rows of the columns x, y, and w0, w1, ... (widths).

    Args:
        rows: what is trained on.
        invalid: whether a row has null in a column that may have none.
        label: ``none``, ``class``, ``text`` or ``vector``.
        widths: number of input columns; 0 for texts and tokens.
        alike: number of columns of tokens, which have as many in each column of a row.

    Raises:
        DataError: if there are none, one is invalid, or their numbers of values differ.
    """
    from pyspark.sql import functions as F

    asked = [F.count(F.lit(1)).alias("rows"), F.count(F.when(invalid, F.lit(1))).alias("invalid")]
    for number in range(widths):
        asked += [F.min(f"w{number}").alias(f"low{number}"), F.max(f"w{number}").alias(f"high{number}")]
    asked += [F.max((F.col("w0") != F.col(f"w{number}")).cast("int")).alias(f"odd{number}") for number in range(1, alike)]
    if label == "class":
        asked += [F.min("y").alias("lowest"), F.max("y").alias("highest")]
    elif label == "vector":
        asked += [F.min(F.size("y")).alias("lowest"), F.max(F.size("y")).alias("highest")]
    found = rows.agg(*asked).first()
    assert found is not None
    if found["invalid"]:
        raise DataError(
            f"{found['invalid']} rows have null in their input or label ({OR_INVALID}; a weight below 0): expected none. "
            "Set handleInvalid to skip to leave them out"
        )
    if not found["rows"]:
        raise DataError("There are no rows to train on: expected at least one without null. Check inputCol and labelCol")
    for number in range(widths):
        if found[f"low{number}"] != found[f"high{number}"]:
            raise DataError(
                f"Rows of input column {number + 1} have {found[f'low{number}']} to {found[f'high{number}']} numbers: "
                "expected as many in every row"
            )
    if any(found[f"odd{number}"] for number in range(1, alike)):
        raise DataError(
            "Rows of tokens have other numbers in one input column than in another: expected as many. Check inputCols"
        )
    if label == "class" and found["lowest"] < 0:
        raise DataError("Labels of classes: expected whole numbers from 0, got others. Use StringIndexer, or another loss")
    if label == "vector" and found["lowest"] != found["highest"]:
        raise DataError(f"Labels have {found['lowest']} to {found['highest']} numbers: expected as many in every row")
    names: list[str] = []
    if label == "text":
        names = [row["y"] for row in rows.select("y").distinct().limit(MAX_LABELS + 1).collect()]
        if len(names) > MAX_LABELS:
            raise DataError(f"There are more than {MAX_LABELS} different labels: expected classes. Check labelCol")
    return RowSummary(
        rows=int(found["rows"]),
        widths=tuple(int(found[f"low{number}"]) for number in range(widths)),
        labels=tuple(sorted(names)),
        label_width=int(found["lowest"]) if label == "vector" else 0,
        classes=int(found["highest"]) + 1 if label == "class" else len(names) or None,
    )


@dataclass(frozen=True)
class Layout:
    """How rows become files; it follows from their number and form alone.

    Attributes:
        files: of each side, a power of two.
        labels: class number of each label string; empty: labels are numbers.
        label: ``none``, ``class``, ``text`` or ``vector``.
        tokenizer: for texts.
        weighted: whether rows have weights.
    """

    form: InputForm
    label: str
    labels: dict[str, int]
    files: int
    validation_fraction: float
    seed: int
    tokenizer: StoredTokenizer | None
    weighted: bool = False

    @property
    def element(self) -> pa.DataType:
        """Of x."""
        return pa.int32() if self.form.text or self.form.whole else pa.float32()

    @property
    def schema(self) -> pa.Schema:
        """Of a file: id, x, y if rows are labelled, and weight if they have one."""
        fields = [("id", pa.binary(16)), ("x", pa.list_(self.element))]
        if self.label != "none":
            fields.append(("y", pa.list_(pa.float32()) if self.label == "vector" else pa.int64()))
        if self.weighted:
            fields.append(("weight", pa.float32()))
        return pa.schema(fields)

    @property
    def rows_per_group(self) -> int:
        """Rows of a row group."""
        width = self.form.max_length if self.form.text else max(1, sum(self.form.widths))
        return max(16, min(ROWS_PER_GROUP, NUMBERS_PER_GROUP // width))


def layout_of(
    summary: RowSummary,
    *,
    form: InputForm,
    label: str,
    validation_fraction: float,
    seed: int,
    tokenizer: StoredTokenizer | None,
    weighted: bool = False,
) -> Layout:
    """The layout of some rows."""
    files = 1
    while summary.rows > files * ROWS_PER_FILE:
        files *= 2
    return Layout(
        form=form,
        label=label,
        labels={name: number for number, name in enumerate(summary.labels)},
        files=files,
        validation_fraction=validation_fraction,
        seed=seed,
        tokenizer=tokenizer,
        weighted=weighted,
    )


def write_rows(rows: DataFrame, store: ArtifactStore, *, layout: Layout) -> tuple[ArtifactRef, dict[str, int]]:
    """Write the dataset artifact; the driver sees the names of its files alone.

    Args:
        rows: columns x, y (if labelled), weight (if weighted), and v (whether it is for validation) or none.
        store: scratch storage that every executor reaches.
        layout: see there.

    Returns:
        the dataset, and the rows of each side.

    Raises:
        DataError: if there are no rows for training.
    """
    fields = "key int, file int, id binary, x binary"
    if layout.label != "none":
        fields += ", y array<float>" if layout.label == "vector" else ", y bigint"
    if layout.weighted:
        fields += ", weight float"
    key = hashlib.sha256(repr(layout).encode()).hexdigest()
    with store.begin("dataset", "rows", key, settings={}, upstream={}) as writer:
        from ts4s_core.training.job import storage_to_wire

        numbered = rows.mapInArrow(EncodeRows(layout), fields)
        dealt = numbered.repartition(2 * layout.files, "key").sortWithinPartitions("id")
        write = WriteFile(layout, storage_to_wire(store.storage.settings), str(writer.ref))
        entries = [json.loads(row["entry"]) for row in dealt.mapInArrow(write, "entry string").collect()]
        counts = _register(writer, entries)
        if not counts["train"]:
            raise DataError("There are no training rows left beside those for validation: lower validationFraction")
        facts = DatasetFacts(
            rows=counts,
            labels=tuple(layout.labels),
            fingerprint=_fingerprint(entries),
            task="classification",
            max_length=layout.form.max_length,
            pad_id=layout.form.pad_id,
        )
        writer.facts = facts.to_json()
        writer.seal()
        return writer.ref, counts


def _register(writer: ArtifactWriter, entries: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = dict.fromkeys(SIDES, 0)
    for entry in sorted(entries, key=lambda entry: str(entry["path"])):
        groups = tuple(RowGroup(**group) for group in entry["row_groups"])
        writer.register(FileEntry(entry["path"], entry["size"], entry["sha256"], True, groups))
        counts[entry["path"].split("/")[0]] += sum(group.rows for group in groups)
    return counts


def _fingerprint(entries: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256("".join(sorted(f"{entry['path']} {entry['sha256']}\n" for entry in entries)).encode()).hexdigest()


@dataclass(frozen=True)
class EncodeRows:
    """Rows to (key of the file's partition, number of the file, id, x, y): hashed, tokenised, labels numbered.

    The numbers of x are bytes on their way to the file: Spark moves those whole, and an array number by number.
    """

    layout: Layout

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of x, y, v to batches of key, file, id, x, y; empty ones are left out."""
        layout = self.layout
        encode = encoder(layout.tokenizer, layout.form) if layout.tokenizer is not None else None
        for batch in batches:
            size = max(1, batch.num_rows * BYTES_AT_ONCE // max(1, batch.nbytes))
            for start in range(0, batch.num_rows, size):
                yield self._encoded(batch.slice(start, size), encode)
        give_back_memory()

    def _encoded(self, batch: pa.RecordBatch, encode: Any) -> pa.RecordBatch:
        layout = self.layout
        x, columns = batch.column("x"), {}
        inputs = _bytes(x)
        labels = [b""] * len(inputs)
        if layout.label != "none":
            y = batch.column("y")
            if layout.label == "text":
                y = pa.array([layout.labels[name] for name in y.to_pylist()], pa.int64())
            labels = _bytes(y)
            columns["y"] = y
        if layout.weighted:
            columns["weight"] = batch.column("weight")
            # Rows that differ in their weight alone have an order too.
            labels = [one + two for one, two in zip(labels, _bytes(columns["weight"]), strict=True)]
        ids = [hashlib.sha256(b"%d:%b%b" % (len(one), one, two)).digest()[:16] for one, two in zip(inputs, labels, strict=True)]
        if "v" in batch.schema.names:
            held_out = batch.column("v").to_numpy(zero_copy_only=False).astype(bool)
        else:
            held_out = _held_out(inputs, fraction=layout.validation_fraction, seed=layout.seed)
        first = np.frombuffer(b"".join(one[:4] for one in ids), ">u4").astype(np.int64)
        files = first * layout.files // 2**32 + layout.files * held_out
        if encode is not None:
            inputs = _bytes(pa.array(encode(x.to_pylist()), pa.list_(pa.int32())))
        keys = np.array(partition_keys(2 * layout.files), np.int32)[files]
        columns = {"id": pa.array(ids, pa.binary()), "x": pa.array(inputs, pa.binary())} | columns
        return pa.RecordBatch.from_pydict({"key": pa.array(keys), "file": pa.array(files, pa.int32())} | columns)


def _held_out(inputs: Sequence[bytes], *, fraction: float, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether rows are for validation: a hash of the input and the seed."""
    if not fraction:
        return np.zeros(len(inputs), bool)
    digests = (
        hashlib.blake2b(one, digest_size=8, person=b"ts4s-side", salt=seed.to_bytes(8, "little")).digest() for one in inputs
    )
    return np.array([int.from_bytes(digest, "little") / 2**64 < fraction for digest in digests])


def _bytes(column: pa.Array) -> list[bytes]:
    """Each row's content: of a text its UTF-8, of numbers their little-endian bytes."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [text.encode() for text in column.to_pylist()]
    if pa.types.is_integer(column.type):
        return [int(value).to_bytes(8, "little", signed=True) for value in column.to_pylist()]
    if pa.types.is_floating(column.type):
        return [value.tobytes() for value in column.to_numpy(zero_copy_only=False)]
    ends, values = column.offsets.to_numpy(), column.flatten().to_numpy(zero_copy_only=False)
    data, size = np.ascontiguousarray(values).tobytes(), values.dtype.itemsize
    return [data[size * int(start) : size * int(stop)] for start, stop in itertools.pairwise(ends - ends[0])]


def _numbers(column: pa.Array, element: pa.DataType) -> pa.Array:
    """Each row's bytes as an array of numbers of four bytes, where they lie."""
    column = column.cast(pa.binary())  # large ones, if Spark is asked for them
    _validity, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1] // 4
    return pa.ListArray.from_arrays(ends, pa.Array.from_buffers(element, int(ends[-1]), [None, data]))


@dataclass(frozen=True)
class WriteFile:
    """Writes a sorted partition to one file of the artifact; yields the file's entry."""

    layout: Layout
    storage: dict[str, Any]
    ref: str

    def __repr__(self) -> str:
        return f"WriteFile({self.ref})"  # the storage settings may hold secrets

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One batch with the entry as JSON; none if there are no rows."""
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            return
        number = first.column("file")[0].as_py()
        path = f"{SIDES[number // self.layout.files]}/{number % self.layout.files:05d}.parquet"
        store = ArtifactStore.open(StorageSettings(**self.storage))
        with tempfile.TemporaryDirectory(prefix="ts4s-rows-") as folder:
            local = Path(folder) / "rows.parquet"
            self._fill(local, first, batches)
            entry = stage_file(store.storage, ArtifactRef.parse(self.ref), path, local, row_groups_of(local))
        give_back_memory()
        yield pa.RecordBatch.from_pydict({"entry": [json.dumps(asdict(entry))]})

    def _fill(self, local: Path, first: pa.RecordBatch, batches: Iterator[pa.RecordBatch]) -> None:
        schema, size = self.layout.schema, self.layout.rows_per_group
        with RowGroupWriter(local, schema, rows_per_group=size, plain=True) as writer:
            for batch in itertools.chain([first], batches):
                writer.write(self._table(batch))

    def _table(self, batch: pa.RecordBatch) -> pa.Table:
        schema = self.layout.schema
        columns = {name: batch.column(name) for name in schema.names}
        columns["x"] = _numbers(columns["x"], self.layout.element)
        return pa.table(columns).cast(schema)
