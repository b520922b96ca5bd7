"""Rows of numbers or tokens with labels of any form, for modules that are no text classifiers.

Legend: B rows, D numbers of a row, C numbers of a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

#: A side of at most so many numbers (64 MiB) is kept whole: two windows of wider rows take as much.
KEPT_NUMBERS = 1 << 24


@dataclass(frozen=True)
class TableBatch:
    """One part: forward's arguments, labels (B,) int64 or (B, C) float32, and weights (B,) float32, if rows have any."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    weights: torch.Tensor | None = None

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
    """Some rows of a table.

    Attributes:
        numbers: (rows of the table, D) float32 or int32.
        labels: (rows of the table,) int64 or (rows of the table, C) float32.
        ids: each row's 16 bytes.
        form: what forward gets of them.
        places: which rows of the table these are, in order.
        weights: (rows of the table,) float32; None: all rows count alike.
    """

    numbers: NDArray[Any]
    labels: NDArray[Any]
    ids: Sequence[bytes]
    form: InputForm
    places: NDArray[np.int64]
    weights: NDArray[Any] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All rows cost the same."""
        return np.ones(len(self.places), np.int64)

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The rows' ids in hex."""
        return [self.ids[place].hex() for place in self.places[rows]]

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> TableBatch:
        """Some rows as one part."""
        places = self.places[rows]
        weights = None if self.weights is None else torch.from_numpy(self.weights[places])
        return TableBatch(self.form.arguments(self.numbers[places]), torch.from_numpy(self.labels[places]), weights)


@dataclass(frozen=True)
class TokenBatch:
    """One part of rows of tokens: forward's arguments, (B, T) int64 each, labels and weights as :class:`TableBatch` has them."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    tokens: int
    weights: torch.Tensor | None = None

    @property
    def padded_tokens(self) -> int:
        """B x T."""
        return self.inputs[0].numel()


@dataclass(frozen=True)
class TokenBlock:
    """Some rows of tokens.

    Attributes:
        values: all rows, one after the other, each with the tokens of its columns one after the other (int32).
        offsets: where each row begins, one more at the end (int64).
        labels: (rows,) int64 or (rows, C) float32.
        ids: each row's 16 bytes.
        form: what forward gets of them.
        weights: (rows,) float32; None: all rows count alike.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    ids: Sequence[bytes]
    form: InputForm
    weights: NDArray[Any] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, in one column."""
        return np.diff(self.offsets) // self.form.tokens

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The rows' ids in hex."""
        return [self.ids[row].hex() for row in rows]

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> TokenBatch:
        """Some rows as one part, padded to their longest."""
        lengths = self.lengths[rows]
        flat = np.concatenate([self.values[self.offsets[row] : self.offsets[row + 1]] for row in rows])
        labels = torch.from_numpy(np.ascontiguousarray(self.labels[rows]))
        weights = None if self.weights is None else torch.from_numpy(self.weights[rows])
        return TokenBatch(self.form.token_arguments(flat, lengths), labels, int(lengths.sum()), weights)


class TableRows:
    """Rows of a dataset that :mod:`ts4s_core.spark.ml.rows` wrote: columns id, x, and y or none.

    They are streamed by row group. A side of few numbers is read once and kept: it takes no more memory than the two
    windows that are held of a larger one. Without y the label of a row is the row itself.
    """

    def __init__(self, dataset: Dataset, form: InputForm, *, labelled: bool, weighted: bool = False) -> None:
        self.pad_id = form.pad_id
        self._dataset = dataset
        self._form = form
        self._columns = ("id", "x", *("y",) * labelled, *("weight",) * weighted)
        self._kept: dict[str, TableBlock] = {}

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side."""
        return self._dataset.rows_per_group(side)

    def read(self, side: str, groups: Sequence[int]) -> Block:
        """Some row groups, in the order given."""
        if self._form.text or self._form.tokens:
            return self._texts(side, groups)
        sizes = self.rows_per_group(side)
        if sum(sizes) * sum(self._form.widths) > KEPT_NUMBERS:
            return self._numbers(side, groups)
        if side not in self._kept:
            self._kept[side] = self._numbers(side, range(len(sizes)))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        places = [np.arange(starts[group], starts[group + 1]) for group in groups]
        return replace(self._kept[side], places=np.concatenate(places))

    def _numbers(self, side: str, groups: Sequence[int]) -> TableBlock:
        """Row groups one after the other, each put into its place as it is read."""
        form, sizes = self._form, self.rows_per_group(side)
        count = sum(sizes[group] for group in groups)
        numbers = np.empty((count, sum(form.widths)), np.int32 if form.whole else np.float32)
        labels, weights, ids, start = [], [], [], 0
        for table in self._dataset.read_row_groups(side, groups, self._columns):
            values, _offsets = _flat(table.column("x"))
            numbers[start : start + len(table)] = values.reshape(len(table), -1)
            ids += table.column("id").to_pylist()
            start += len(table)
            if "y" in self._columns:
                labels.append(_labels(table.column("y")))
            if "weight" in self._columns:
                weights.append(table.column("weight").to_numpy())
        own = np.concatenate(labels) if labels else numbers.astype(np.float32, copy=False)
        return TableBlock(numbers, own, ids, form, np.arange(count), np.concatenate(weights) if weights else None)

    def _texts(self, side: str, groups: Sequence[int]) -> Block:
        table = pa.concat_tables(self._dataset.read_row_groups(side, groups, self._columns)).combine_chunks()
        values, offsets = _flat(table.column("x"))
        ids = table.column("id").to_pylist()
        labels = _labels(table.column("y")) if "y" in self._columns else values.reshape(len(ids), -1).astype(np.float32)
        if self._form.tokens or "weight" in self._columns:
            # A text is one column of tokens and its mask.
            form = self._form if self._form.tokens else replace(self._form, tokens=1, mask=True)
            weights = table.column("weight").to_numpy() if "weight" in self._columns else None
            return TokenBlock(values, offsets, labels, ids, form, weights)
        return RowBlock(values.astype(np.int32, copy=False), offsets, labels, ids)


def rows_of_table(job: TrainJob, store: ArtifactStore) -> TableRows:
    """The rows of a job's dataset; ``extra`` has ``form``, ``labelled`` and ``weighted``."""
    form = InputForm.from_json(job.extra["form"])
    dataset = Dataset.open(store, job.dataset_ref)
    return TableRows(dataset, form, labelled=job.extra["labelled"], weighted=job.extra["weighted"])


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
