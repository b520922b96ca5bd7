"""Rows of numbers or tokens with labels of any form, for modules that are no text classifiers.

Legend: B rows, D numbers of a row, C numbers of a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.dataset import Dataset
from ts4s_core.modules.inputs import InputForm
from ts4s_core.training.batches.batch import Block, RowBlock
from ts4s_core.training.job import TrainJob


@dataclass(frozen=True)
class TableBatch:
    """One part: forward's arguments, and labels (B,) int64 or (B, C) float32."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    @property
    def tokens(self) -> int:
        """Rows: none is padded."""
        return len(self.labels)

    @property
    def padded_tokens(self) -> int:
        """Rows."""
        return len(self.labels)


@dataclass(frozen=True)
class TableBlock:
    """Some rows.

    Attributes:
        numbers: (rows, D) float32 or int32.
        labels: (rows,) int64 or (rows, C) float32.
        ids: each row's 16 bytes.
        form: what forward gets of them.
    """

    numbers: NDArray[Any]
    labels: NDArray[Any]
    ids: Sequence[bytes]
    form: InputForm

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All rows cost the same."""
        return np.ones(len(self.numbers), np.int64)

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The rows' ids in hex."""
        return [self.ids[row].hex() for row in rows]

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> TableBatch:
        """Some rows as one part."""
        labels = torch.from_numpy(np.ascontiguousarray(self.labels[rows]))
        return TableBatch(self.form.arguments(self.numbers[rows]), labels)


class TableRows:
    """Rows of a dataset that :mod:`ts4s_core.spark.ml.rows` wrote, streamed by row group: columns id, x, and y or none.

    Without y the label of a row is the row itself.
    """

    def __init__(self, dataset: Dataset, form: InputForm, *, labelled: bool) -> None:
        self.pad_id = form.pad_id
        self._dataset = dataset
        self._form = form
        self._columns = ("id", "x", "y") if labelled else ("id", "x")

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side."""
        return self._dataset.rows_per_group(side)

    def read(self, side: str, groups: Sequence[int]) -> Block:
        """Some row groups, in the order given."""
        table = pa.concat_tables(self._dataset.read_row_groups(side, groups, self._columns)).combine_chunks()
        ids = table.column("id").to_pylist()
        values, offsets = _flat(table.column("x"))
        labels = _labels(table.column("y")) if "y" in self._columns else values.reshape(len(ids), -1).astype(np.float32)
        if self._form.text:
            return RowBlock(values.astype(np.int32, copy=False), offsets, labels, ids)
        return TableBlock(values.reshape(len(ids), -1), labels, ids, self._form)


def rows_of_table(job: TrainJob, store: ArtifactStore) -> TableRows:
    """The rows of a job's dataset; ``extra`` has ``form`` and ``labelled``."""
    form = InputForm.from_json(job.extra["form"])
    return TableRows(Dataset.open(store, job.dataset_ref), form, labelled=job.extra["labelled"])


def _labels(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_integer(column.type):
        classes: NDArray[Any] = column.to_numpy().astype(np.int64)
        return classes
    values, _offsets = _flat(column)
    labels: NDArray[Any] = values.reshape(len(column), -1).astype(np.float32, copy=False)
    return labels


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values: NDArray[Any] = array.values.to_numpy()
    return values[offsets[0] : offsets[-1]], offsets - offsets[0]
