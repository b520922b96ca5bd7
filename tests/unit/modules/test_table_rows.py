"""Rows of a table for training: the same whether a side is kept whole or streamed by row group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ts4s_core.modules import table_rows
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.table_rows import TableRows

GROUPS = (5, 3, 4)


class Groups:
    """A dataset of three row groups, which counts how often one is read."""

    def __init__(self, *, classes: bool) -> None:
        self.reads = 0
        rows = sum(GROUPS)
        numbers = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        labels: Any = np.arange(rows) % 3 if classes else [[float(row)] for row in range(rows)]
        ids = [bytes([row]) * 16 for row in range(rows)]
        self._table = pa.table({"id": ids, "x": numbers.tolist(), "y": labels}).cast(
            pa.schema(
                [("id", pa.binary()), ("x", pa.list_(pa.float32())), ("y", pa.int64() if classes else pa.list_(pa.float32()))]
            )
        )

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        return GROUPS

    def read_row_groups(self, side: str, groups: Any, columns: Any) -> Any:
        for group in groups:
            self.reads += 1
            yield self._table.slice(sum(GROUPS[:group]), GROUPS[group]).select(columns)


@pytest.mark.parametrize("classes", [True, False])
def test_a_kept_side_is_read_once_and_gives_the_same(classes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, streamed = Groups(classes=classes), Groups(classes=classes)
    form = InputForm(widths=(2,))
    whole = TableRows(kept, form, labelled=True)  # type: ignore[arg-type]
    by_groups = TableRows(streamed, form, labelled=True)  # type: ignore[arg-type]
    rows = np.array([6, 0, 3])
    for groups in ((2, 0), (1, 2)):
        monkeypatch.setattr(table_rows, "KEPT_NUMBERS", 24)
        one = whole.read("train", groups)
        monkeypatch.setattr(table_rows, "KEPT_NUMBERS", 23)
        other = by_groups.read("train", groups)
        assert one.lengths.tolist() == other.lengths.tolist()
        assert one.sample_ids(rows) == other.sample_ids(rows)
        first, second = one.batch(rows, pad_id=0), other.batch(rows, pad_id=0)
        assert first.inputs[0].tolist() == second.inputs[0].tolist()
        assert first.labels.tolist() == second.labels.tolist()
    assert first.inputs[0].tolist() == [[22.0, 23.0], [10.0, 11.0], [16.0, 17.0]]
    assert first.labels.tolist() == ([2, 2, 2] if classes else [[11.0], [5.0], [8.0]])
    assert (kept.reads, streamed.reads) == (3, 4)


def test_without_a_label_a_row_is_its_own() -> None:
    rows = TableRows(Groups(classes=True), InputForm(widths=(2,)), labelled=False)  # type: ignore[arg-type]
    batch = rows.read("train", (1,)).batch(np.array([1]), pad_id=0)
    assert batch.labels.tolist() == batch.inputs[0].tolist() == [[12.0, 13.0]]


@pytest.mark.parametrize(
    "form",
    [InputForm(text=True, pad_id=7), InputForm(whole=True, tokens=1, mask=True, names=("ids", "attention_mask"), pad_id=7)],
    ids=["text", "tokens"],
)
def test_tokens_have_weights(form: InputForm) -> None:
    """Padded as without them, in the order that is asked for."""

    class Tokens:
        def rows_per_group(self, side: str) -> tuple[int, ...]:
            return (3,)

        def read_row_groups(self, side: str, groups: Any, columns: Any) -> Any:
            kept = {
                "id": [b"1" * 16, b"2" * 16, b"3" * 16],
                "x": [[1, 2], [3], [4, 5, 6]],
                "y": [0, 1, 1],
                "weight": [0.5, 0.0, 2.0],
            }
            kinds = {"x": pa.list_(pa.int32()), "y": pa.int64(), "weight": pa.float32(), "id": pa.binary()}
            yield pa.table({name: pa.array(kept[name], kinds[name]) for name in columns})

    batches = [
        TableRows(Tokens(), form, labelled=True, weighted=weighted).read("train", (0,)).batch(np.array([2, 0]), pad_id=7)  # type: ignore[arg-type]
        for weighted in (True, False)
    ]
    for batch in batches:
        assert [value.tolist() for value in batch.inputs] == [[[4, 5, 6], [1, 2, 7]], [[1, 1, 1], [1, 1, 0]]]
        assert (batch.labels.tolist(), batch.tokens, batch.padded_tokens) == ([1, 0], 5, 6)
    assert batches[0].weights.tolist() == [2.0, 0.5]  # type: ignore[attr-defined]
