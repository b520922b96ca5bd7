"""A dataset artifact's rows, as training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of
from ts4s_core.training.batches.batch import RowBlock
from ts4s_core.training.batches.read_ahead import RowSource
from ts4s_core.training.job import TrainJob

_COLUMNS = ("id", "label", "input_ids")


def rows_of_artifact(job: TrainJob, store: ArtifactStore) -> RowSource:
    """The rows of a ``dataset`` artifact, as its kind of task has them."""
    ref = job.dataset_ref
    kind = kind_of(DatasetFacts.of(store.manifest(ref)).task)
    return load(kind.training_rows)(store, ref)  # type: ignore[no-any-return]


def labelled_rows(store: ArtifactStore, ref: ArtifactRef) -> RowSource:
    """The rows of labelled texts."""
    return DatasetRows(Dataset.open(store, ref))


class DatasetRows:
    """Rows of a dataset artifact, streamed by row group."""

    def __init__(self, dataset: Dataset) -> None:
        self.pad_id = dataset.pad_id
        self._dataset = dataset
        self._classes = len(dataset.labels) if kind_of(dataset.task).labels == "many" else 0

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side."""
        return self._dataset.rows_per_group(side)

    def read(self, side: str, groups: Sequence[int]) -> RowBlock:
        """Some row groups, in the order given."""
        table = pa.concat_tables(self._dataset.read_row_groups(side, groups, _COLUMNS)).combine_chunks()
        tokens, offsets = _flat(table.column("input_ids"))
        labels = table.column("label")
        if self._classes:
            flat, starts = _flat(labels)
            hot = np.zeros((len(labels), self._classes), np.float32)
            hot[np.repeat(np.arange(len(labels)), np.diff(starts)), flat] = 1
            return RowBlock(tokens, offsets, hot, table.column("id").to_pylist())
        return RowBlock(tokens, offsets, labels.to_numpy().astype(np.int64), table.column("id").to_pylist())


def _flat(column: pa.ChunkedArray) -> tuple[Any, Any]:
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]]
    return values.astype(np.int32, copy=False), offsets - offsets[0]
