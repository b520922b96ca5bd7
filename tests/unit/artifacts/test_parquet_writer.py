"""Parquet of ours, written and read back: any number of rows, in batches of any size, without an empty row group."""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.artifacts.pieces import PieceReader, row_groups_of
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.schema import ROWS_PER_GROUP, side_schema, write_rows
from ts4s_core.data.side_files import register_files, stage_tables
from ts4s_core.data.sources import open_source
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.table_rows import TableRows
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings
from ts4s_core.spark.ml.rows import Layout, WriteFile
from ts4s_core.training.job import storage_to_wire

FORM = InputForm(widths=(2,))
#: Sizes of the batches that rows come in: none, one, a row group less one, exactly one, and more.
BATCHES = st.lists(st.integers(0, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 100]), max_size=12)


def pages(path: Path) -> list[int]:
    """Rows of each row group, after the footer."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def rows(count: int) -> pa.Table:
    return pa.table({"x": [[float(at), at / 3] for at in range(count)], "y": [f"row {at}" for at in range(count)]})


def cut(table: pa.Table, sizes: Sequence[int]) -> Iterator[pa.Table]:
    ends = list(itertools.accumulate(sizes, initial=0))
    return (table.slice(start, stop - start) for start, stop in itertools.pairwise(ends))


@settings(deadline=None)
@given(BATCHES, st.sampled_from([1, 2, 16, 33]))
@example([256, 44], 256)
@example([0, 0], 4)
def test_rows_in_batches_of_any_size_make_the_same_file(sizes: list[int], rows_per_group: int) -> None:
    table = rows(sum(sizes))
    with tempfile.TemporaryDirectory() as folder:
        whole, pieces = Path(folder) / "whole.parquet", Path(folder) / "pieces.parquet"
        for path, parts in ((whole, [table]), (pieces, cut(table, sizes))):
            with RowGroupWriter(path, table.schema, rows_per_group=rows_per_group, plain=True) as writer:
                for part in parts:
                    writer.write(part)
        assert whole.read_bytes() == pieces.read_bytes()
        full, left = divmod(len(table), rows_per_group)
        assert pages(pieces) == [rows_per_group] * full + [left] * bool(left)
        assert pq.read_table(pieces).equals(table)
        found = row_groups_of(pieces)
        assert [piece.rows for piece in found] == [*pages(pieces), 0]
        assert [piece.offset + piece.size for piece in found] == [*(piece.offset for piece in found[1:]), pieces.stat().st_size]


@settings(deadline=None)
@given(BATCHES)
def test_a_row_group_a_table_where_none_is_named(sizes: list[int]) -> None:
    sink = io.BytesIO()
    table = rows(sum(sizes))
    with RowGroupWriter(sink, table.schema) as writer:
        for part in cut(table, sizes):
            writer.write(part)
    metadata = pq.read_metadata(io.BytesIO(sink.getvalue()))
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [size for size in sizes if size]
    assert pq.read_table(io.BytesIO(sink.getvalue())).equals(table)


def test_what_fails_inside_leaves_no_rows_in_hand() -> None:
    sink = io.BytesIO()
    with pytest.raises(pa.ArrowException), RowGroupWriter(sink, rows(0).schema, rows_per_group=8) as writer:
        fail_after_three(writer)
    assert pq.read_metadata(io.BytesIO(sink.getvalue())).num_rows == 0


def fail_after_three(writer: RowGroupWriter) -> None:
    writer.write(rows(3))
    writer.write(pa.table({"other": [1]}))


def foreign(path: Path, table: pa.Table, sizes: Sequence[int]) -> None:
    """As other programs write: an empty row group for every empty batch."""
    with pq.ParquetWriter(path, table.schema) as writer:
        for part in cut(table, sizes):
            writer.write_table(part)


@settings(deadline=None)
@given(BATCHES)
@example([0, 5, 0, 0, 3, 0])
def test_empty_row_groups_of_others_are_pieces_without_bytes(sizes: list[int]) -> None:
    table = rows(sum(sizes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        foreign(path, table, sizes)
        found = row_groups_of(path)
        assert [piece.rows for piece in found] == [*sizes, 0]
        assert sum(piece.size for piece in found) == path.stat().st_size
        storage = ArtifactStore.open(StorageSettings(uri=folder)).storage
        reader = PieceReader.buffered(storage, "rows.parquet", FileEntry("rows.parquet", path.stat().st_size, "", True, found))
        assert reader.read() == path.read_bytes()
        assert pq.read_table(reader).equals(table)


@settings(deadline=None)
@given(BATCHES)
@example([0, 5, 0, 0, 3, 0])
def test_empty_row_groups_of_others_are_read_by_training_and_prediction(sizes: list[int]) -> None:
    count = sum(sizes)
    table = pa.table({"label": ["ab"[at % 2] for at in range(count)], "text": [f"text {at}" for at in range(count)]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        foreign(path, table.cast(pa.schema([("label", pa.string()), ("text", pa.string())])), sizes)
        source = open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine())
        read = [row.text for split in source.splits for row in source.read(split, Tally())]
        texts = open_texts(DataSettings(source=str(path)), StorageSettings(), LocalEngine(), slots=1)
        assert read == [row.text for split in texts.splits for row in texts.read(split)] == table.column("text").to_pylist()


def sealed(store: ArtifactStore, writer: ArtifactWriter, **facts: Any) -> Dataset:
    known = {"labels": ["a", "b"], "fingerprint": "f", "max_length": 8, "pad_id": 0, "task": "classification"}
    writer.facts.update(known | facts)
    writer.seal()
    assert [version.damages for version in verify(store)] == [()]
    return Dataset.open(store, writer.ref)


def side(count: int) -> pa.Table:
    ids = [hashlib.sha256(b"%d" % at).digest()[:16] for at in range(count)]
    columns = {"id": ids, "label": [at % 2 for at in range(count)], "input_ids": [[1, at] for at in range(count)]}
    return pa.table(
        columns | {"length": [2] * count, "text": [f"text {at}" for at in range(count)]}, side_schema(multi_label=False)
    )


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3) | st.sampled_from([255, 256, 257, 513]), min_size=1, max_size=4), st.sampled_from([None, 1, 7]))
def test_files_of_a_side(counts: list[int], rows_per_group: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore.open(StorageSettings(uri=folder))
        with store.begin("dataset", "rows", "ab" * 32, settings={}, upstream={}) as writer:
            tables = [(f"train/{number:05}.parquet", side(count)) for number, count in enumerate(counts)]
            parts = stage_tables(store.storage.settings, str(writer.ref), tables, rows_per_group=rows_per_group)
            register_files(writer, parts)
            with sealed(store, writer) as dataset:
                size = rows_per_group or ROWS_PER_GROUP
                expected = [min(size, count - start) for count in counts for start in range(0, count, size)]
                assert list(dataset.rows_per_group("train")) == expected
                read = list(dataset.read("train"))
                assert [table.num_rows for table in read] == expected
                texts = [text for table in read for text in table.column("text").to_pylist()]
                assert texts == [f"text {at}" for count in counts for at in range(count)]


def test_empty_row_groups_in_a_sealed_dataset_are_passed_over(tmp_path: Path) -> None:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    foreign(tmp_path / "00000.parquet", side(7), [0, 4, 0, 3, 0])
    with store.begin("dataset", "rows", "ab" * 32, settings={}, upstream={}) as writer:
        path = tmp_path / "00000.parquet"
        writer.add_file(path, "train/00000.parquet", row_groups=row_groups_of(path))
        with sealed(store, writer) as dataset:
            assert dataset.rows_per_group("train") == (4, 3)
            assert [table.column("label").to_pylist() for table in dataset.read("train")] == [[0, 1, 0, 1], [0, 1, 0]]


def test_the_usual_file_of_a_side_did_not_change(tmp_path: Path) -> None:
    """Datasets are stored once by content: what was written before has these bytes."""
    write_rows(side(600), tmp_path / "rows.parquet")
    expected = tmp_path / "expected.parquet"
    with pq.ParquetWriter(
        expected,
        side(0).schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        data_page_version="1.0",
        version="2.6",
    ) as writer:
        writer.write_table(side(600), row_group_size=256)
    assert (tmp_path / "rows.parquet").read_bytes() == expected.read_bytes()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.integers(0, 40) | st.sampled_from([255, 256, 300]), max_size=6), min_size=1, max_size=3))
@example([[10_000, 50], [20]])
@example([[256, 44], [100] * 5])
def test_the_rows_of_a_fit(parts: list[list[int]]) -> None:
    """Arrow batches of any size in each part, as Spark hands them out; a part without rows has no file."""
    layout = Layout(FORM, "class", {}, files=len(parts), validation_fraction=0.0, seed=0, tokenizer=None)
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore.open(StorageSettings(uri=folder))
        with store.begin("dataset", "rows", "ab" * 32, settings={}, upstream={}) as writer:
            write = WriteFile(layout, storage_to_wire(store.storage.settings), str(writer.ref))
            for number, sizes in enumerate(parts):
                register_files(writer, entries_of(write, number, sizes))
            with sealed(store, writer) as dataset:
                found = TableRows(dataset, FORM, labelled=True)
                groups = found.rows_per_group("train")
                assert all(0 < count <= layout.rows_per_group for count in groups)
                assert sum(groups) == sum(map(sum, parts))
                if groups:
                    block: Any = found.read("train", range(len(groups)))
                    assert block.numbers[:, 0].tolist() == [float(at) for sizes in parts for at in range(sum(sizes))]
                    assert block.labels.tolist() == [at % 3 for sizes in parts for at in range(sum(sizes))]


def entries_of(write: WriteFile, number: int, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    import json

    count = sum(sizes)
    table = pa.table(
        {
            "file": pa.array([number] * count, pa.int32()),
            "id": pa.array([at.to_bytes(16, "big") for at in range(count)], pa.binary()),
            "x": pa.array([np.array([at, 1], np.float32).tobytes() for at in range(count)], pa.binary()),
            "y": pa.array(np.arange(count) % 3, pa.int64()),
        }
    )
    batches = (batch for piece in cut(table, sizes) for batch in piece.combine_chunks().to_batches() or empty(table))
    for batch in write(batches):
        for entry in map(json.loads, batch.column("entry").to_pylist()):
            yield entry | {"row_groups": [list(piece.values()) for piece in entry["row_groups"]]}


def empty(table: pa.Table) -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pydict({name: [] for name in table.column_names}, schema=table.schema)]
