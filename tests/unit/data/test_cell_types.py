"""One table of types for labels, texts and ids, whatever format they come in."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.cell_types import TABLE, id_text, kind_of, kind_of_arrow, plain_text
from ts4s_core.data.formats.rows import Columns, Tally, row_of
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings

ONE, MANY = Columns("text", "label", multi_label=False), Columns("text", "label", multi_label=True)
#: Two cells of each type, the spelling of a label (None: refused) and of an id.
TYPES: list[tuple[pa.DataType, list[Any], list[str] | None, list[str | None] | None]] = [
    (pa.string(), ["a", "b"], ["a", "b"], ["a", "b"]),
    (pa.large_string(), ["a", "b"], ["a", "b"], ["a", "b"]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"], ["a", "b"], ["a", "b"]),
    (pa.int8(), [1, -2], ["1", "-2"], ["1", "-2"]),
    (pa.uint64(), [1, 2**63], ["1", str(2**63)], ["1", str(2**63)]),
    (pa.float32(), [1.0, 0.5], ["1", "0.5"], ["1.0", "0.5"]),
    (pa.float64(), [1e20, 0.1], ["100000000000000000000", "0.1"], ["1e+20", "0.1"]),
    (pa.decimal128(25, 3), [Decimal("1.500"), Decimal(100)], ["1.5", "100"], ["1.500", "100.000"]),
    (pa.bool_(), [True, False], ["true", "false"], ["true", "false"]),
    (pa.date32(), [datetime.date(2024, 5, 31)] * 2, None, ["2024-05-31"] * 2),
    (pa.list_(pa.string()), [["a"], ["b"]], None, ['["a"]', '["b"]']),
    (pa.struct([("k", pa.int32())]), [{"k": 1}, {"k": 2}], None, ['{"k": 1}', '{"k": 2}']),
    (pa.binary(), [b"sport", b"money"], None, None),
    (pa.large_binary(), [b"sport", b"money"], None, None),
    (pa.binary(2), [b"sp", b"mo"], None, None),
    (pa.timestamp("us"), [datetime.datetime(2024, 5, 31, 1)] * 2, None, None),
    (pa.timestamp("ns", tz="UTC"), [datetime.datetime(2024, 5, 31, 1)] * 2, None, None),
    (pa.time64("us"), [datetime.time(1, 2)] * 2, None, None),
    (pa.duration("s"), [datetime.timedelta(1)] * 2, None, None),
    (pa.list_(pa.binary()), [[b"a"], [b"b"]], None, None),
    (pa.map_(pa.string(), pa.int32()), [{"a": 1}, {"b": 2}], None, None),
]


def written(path: Path, column: str, kind: pa.DataType, cells: list[Any]) -> Path:
    columns = {"label": pa.array(["x", "y"]), "text": pa.array(["one", "two"]), column: pa.array(cells, kind)}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(("kind", "cells", "labels", "ids"), TYPES, ids=[str(entry[0]) for entry in TYPES])
def test_every_type_of_parquet(
    tmp_path: Path, kind: pa.DataType, cells: list[Any], labels: list[str] | None, ids: list[str | None] | None
) -> None:
    path = written(tmp_path / "label.parquet", "label", kind, cells)
    if labels is None and kind_of_arrow(kind) != "a list":
        with pytest.raises(DataError, match=f"column 'label' of type {str(kind).split('<')[0].split('[')[0]}"):
            open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine())
    else:
        source = open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine())
        assert [row.labels[0] for split in source.splits for row in source.read(split, Tally())] == (labels or [])
    path = written(tmp_path / "id.parquet", "id", kind, cells)
    data = DataSettings(source=str(path), id_column="id")
    if ids is None:
        with pytest.raises(DataError, match="column 'id' of type"):
            open_texts(data, StorageSettings(), LocalEngine(), slots=1)
    else:
        texts = open_texts(data, StorageSettings(), LocalEngine(), slots=1)
        assert [row.id for part in texts.splits for row in texts.read(part)] == ids
    path = written(tmp_path / "text.parquet", "text", kind, cells)
    if kind_of_arrow(kind) != "text":
        for opened in (
            lambda: open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine()),
            lambda: open_texts(DataSettings(source=str(path)), StorageSettings(), LocalEngine(), slots=1),
        ):
            with pytest.raises(DataError, match=r"column 'text' of type .*: expected text"):
                opened()


def test_json_and_csv_spell_labels_as_parquet_does(tmp_path: Path) -> None:
    cells: list[Any] = ["1", 1, 1.0, True, 0.5, None, ["a"], {"k": 1}, 1e400]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"label": cell, "text": "t"}) + "\n" for cell in cells))
    source, tally = open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine()), Tally()
    assert [row.labels[0] for row in source.read(source.splits[0], tally)] == ["1", "1", "1", "true", "0.5"]
    assert [reason for _, reason in tally.bad] == [
        "empty label",
        "the label is a list: use model.task multi-label",
        "the label is an object, not text or a number",
        "the label is infinite",
    ]


@pytest.mark.parametrize("cell", [b"sport", datetime.datetime(2024, 1, 1), datetime.date(2024, 1, 1), 1j, ("a",), {"a"}])
def test_a_cell_that_is_in_no_table_is_never_its_repr(cell: Any) -> None:
    assert kind_of(cell) not in TABLE["label_column"]
    for columns in (ONE, MANY):
        found = row_of(cell, "t", columns)
        assert isinstance(found, str)
        assert found.startswith("the label is a ")
    assert "in the list" in str(row_of([cell], "t", MANY))
    assert isinstance(row_of("x", cell, ONE), str)


def test_several_labels() -> None:
    assert row_of([1.0, "a", Decimal("2.50"), None, "a"], "t", MANY).labels == ("1", "2.5", "a")  # type: ignore[union-attr]
    assert row_of([["a"]], "t", MANY) == "a label in the list is a list, not text or a number"
    assert row_of([float("inf")], "t", MANY) == "the label is infinite"


def test_spelling() -> None:
    assert [plain_text(Decimal(text)) for text in ("1E+2", "-0.10", "0.000", "12")] == ["100", "-0.1", "0", "12"]
    assert id_text(float("nan")) is None
    assert id_text([b"x"]) is None
