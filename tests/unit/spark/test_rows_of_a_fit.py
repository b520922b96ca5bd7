"""The rows of a fit on their way to the file, without Spark."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ts4s_core.modules.inputs import InputForm
from ts4s_core.spark.ml import rows
from ts4s_core.spark.ml.rows import EncodeRows, Layout

WIDTH = 5


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
def test_rows_are_the_same_however_many_are_encoded_at_once(monkeypatch: pytest.MonkeyPatch, whole: bool, at_once: int) -> None:
    monkeypatch.setattr(rows, "BYTES_AT_ONCE", at_once)
    kind, numbers = (pa.int32(), np.int32) if whole else (pa.float32(), np.float32)
    x = np.random.default_rng(3).integers(-9, 9, (70, WIDTH)).astype(numbers)
    labels = pa.array(np.arange(70) % 3, pa.int64())
    batch = pa.RecordBatch.from_pydict({"x": pa.array(x.tolist(), pa.list_(kind)), "y": labels})
    form = InputForm(widths=(WIDTH,), whole=whole)
    layout = Layout(form, "class", {}, files=2, validation_fraction=0.3, seed=4, tokenizer=None)
    encoded = list(EncodeRows(layout)(iter([batch.slice(0, 40), batch.slice(40), batch.slice(70)])))
    assert (len(encoded) == 2) == (at_once == 1 << 22)
    table = pa.Table.from_batches(encoded)
    assert table.column("x").to_pylist() == [row.tobytes() for row in x]
    assert table.column("y").to_pylist() == labels.to_pylist()
    assert len(set(table.column("id").to_pylist())) == 70
    together = pa.Table.from_batches(list(EncodeRows(layout)(iter([batch]))))
    assert table.select(["key", "file", "id"]).equals(together.select(["key", "file", "id"]))
    for large in (pa.binary(), pa.large_binary()):  # as Spark gives them with useLargeVarTypes
        column = table.column("x").combine_chunks().cast(large).slice(7, 20)
        assert rows._numbers(column, kind).to_pylist() == x[7:27].tolist()
