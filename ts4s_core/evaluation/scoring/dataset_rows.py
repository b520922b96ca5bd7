"""Rows of a dataset side as the arrays that evaluation works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.dataset import Dataset
from ts4s_core.evaluation.scoring.predictions import ID_DTYPE, Bools
from ts4s_core.task_kinds.registry import kind_of


@dataclass(frozen=True)
class Rows:
    """N rows in the dataset's order.

    Attributes:
        ids: (N,) S16.
        truth: (N, C) bool.
        tokens: token ids of each row; empty where texts were asked for.
        texts: texts of the rows; empty where tokens were asked for.
    """

    ids: npt.NDArray[np.bytes_]
    truth: Bools
    tokens: Sequence[Sequence[int]]
    texts: Sequence[str]


def row_groups(store: ArtifactStore, dataset: ArtifactRef, side: str) -> list[int]:
    """Rows of each row group of a side."""
    return list(Dataset.open(store, dataset).rows_per_group(side))


def dataset_labels(store: ArtifactStore, dataset: ArtifactRef) -> list[str]:
    """Label names in the order of the classes."""
    return list(Dataset.open(store, dataset).labels)


def sides_labels(store: ArtifactStore, dataset: ArtifactRef) -> tuple[list[str], bool]:
    """Label names, and whether a row has any number of them."""
    opened = Dataset.open(store, dataset)
    return list(opened.labels), kind_of(opened.task).labels == "many"


def rows_of(store: ArtifactStore, dataset: ArtifactRef, *, side: str, indices: Sequence[int], texts: bool) -> Rows:
    """Some row groups of a side, with tokens or with texts."""
    wanted = "text" if texts else "input_ids"
    with Dataset.open(store, dataset) as opened:
        table = table_of(opened, side, indices, columns=["id", "label", wanted])
    values = table.column(wanted).to_pylist()
    return Rows(
        ids=ids_of(table),
        truth=truth_of(table, classes=len(opened.labels)),
        tokens=[] if texts else values,
        texts=values if texts else [],
    )


def table_of(dataset: Dataset, side: str, indices: Sequence[int], *, columns: Sequence[str]) -> pa.Table:
    """Some columns of some row groups, at least one, as one table."""
    return pa.concat_tables(dataset.read_row_groups(side, indices, columns))


def ids_of(table: pa.Table) -> npt.NDArray[np.bytes_]:
    """(N,) S16 of a table's column ``id``."""
    return np.frombuffer(b"".join(table.column("id").to_pylist()), dtype=ID_DTYPE)


def truth_of(table: pa.Table, *, classes: int) -> Bools:
    """(N, C) bool of a table's column ``label``, one class or a list of classes a row."""
    column = table.column("label").combine_chunks()
    truth = np.zeros((len(column), classes), dtype=np.bool_)
    if pa.types.is_list(column.type):
        per_row = column.value_lengths().to_numpy(zero_copy_only=False)
        truth[np.repeat(np.arange(len(column)), per_row), column.flatten().to_numpy()] = True
    else:
        truth[np.arange(len(column)), column.to_numpy()] = True
    return truth
