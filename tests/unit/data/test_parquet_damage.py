"""Parquet files that fuzzing found: refused with an error of ours, and the process lives."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ts4s_core.artifacts.pieces import row_groups_of
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.formats.parquet_footer import groups_of, read_groups
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.schema import side_schema
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError, IntegrityError, Ts4sError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings


def parquet_file(**options: object) -> bytes:
    file = io.BytesIO()
    table = pa.table({"label": ["a", "b"] * 3, "text": ["one", "two", None] * 2, "tags": [["x"], [], ["y", "z"]] * 2})
    pq.write_table(table, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"row_group_size": 2}, {"compression": "none", "use_dictionary": False}])
def test_what_a_footer_says_is_what_pyarrow_reads_there(options: dict[str, object]) -> None:
    data = parquet_file(**options)
    metadata, groups = pq.read_metadata(io.BytesIO(data)), read_groups(io.BytesIO(data))
    assert [group.rows for group in groups] == [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    for number, group in enumerate(groups):
        for at, chunk in enumerate(group.chunks):
            theirs = metadata.row_group(number).column(at)
            assert ".".join(chunk.path) == theirs.path_in_schema
            assert (chunk.values, chunk.unfolded, chunk.folded, chunk.has_dictionary) == (
                theirs.num_values,
                theirs.total_uncompressed_size,
                theirs.total_compressed_size,
                theirs.has_dictionary_page,
            )
            assert chunk.is_text == (theirs.physical_type == "BYTE_ARRAY")


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x00",
        b"\x15",
        b"\x1c" * 40,
        b"\x49\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x18\xff\x7f",
        b"\x1d\x00",
        b"\xf0",
    ],
)
def test_bytes_that_are_no_footer(footer: bytes) -> None:
    with pytest.raises(ValueError, match="footer is damaged"):
        groups_of(footer)


def test_a_file_that_does_not_end_as_parquet_does() -> None:
    for data in (b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"xxxxPARE"):
        with pytest.raises(ValueError, match="does not end as a Parquet file does"):
            read_groups(io.BytesIO(data))


def read_as_training_and_prediction_do(path: Path) -> int:
    settings = DataSettings(source=str(path))
    source = open_source(settings, StorageSettings(), LocalEngine())
    rows = sum(len(list(source.read(split, Tally()))) for split in source.splits)
    texts = open_texts(settings, StorageSettings(), LocalEngine(), slots=1)
    return rows + sum(len(list(texts.read(part))) for part in texts.splits)


def test_every_byte_of_a_footer_changed(tmp_path: Path) -> None:
    """PyArrow ended the process at some of these: a histogram of levels that contradicts itself."""
    whole, path = parquet_file(), tmp_path / "rows.parquet"
    path.write_bytes(whole)
    assert read_as_training_and_prediction_do(path) == 4 + 6
    length = int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for at in range(len(whole) - 8 - length, len(whole) - 8):
        for value in (0, whole[at] ^ 2):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                read_as_training_and_prediction_do(path)
            except Ts4sError:
                refused += 1
    assert refused > length // 2


def test_pages_that_cannot_be_decoded(tmp_path: Path) -> None:
    whole, path = parquet_file(compression="none", use_dictionary=False, write_statistics=False), tmp_path / "rows.parquet"
    at = whole.index(b"\x03\x00\x00\x00one")
    path.write_bytes(whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :])
    with pytest.raises(DataError, match=r"rows\.parquet is not a readable Parquet file"):
        read_as_training_and_prediction_do(path)


@pytest.mark.parametrize("at", [4, 12, 200])
def test_dataset_whose_pages_were_changed_before_it_was_sealed(tmp_path: Path, at: int) -> None:
    """The hashes fit: whoever planted it wrote the manifest."""
    path = tmp_path / "00000.parquet"
    columns = {"id": [bytes(16)], "label": [0], "input_ids": [[1]], "length": [1], "text": ["x" * 40]}
    pq.write_table(pa.table(columns, schema=side_schema(multi_label=False)), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    with store.begin("dataset", "evil", "ab" * 32, settings={}, upstream={}) as writer:
        writer.add_file(path, "train/00000.parquet", row_groups=row_groups_of(path))
        writer.facts.update(labels=["a", "b"], fingerprint="f", max_length=8, pad_id=0, task="classification")
        writer.seal()
    with Dataset.open(store, writer.ref) as dataset, pytest.raises(IntegrityError, match=r"00000\.parquet"):
        list(dataset.read("train"))
