"""Which texts two dataset sides share, and random samples of a side.

A side is kept in the order of the texts' hash. So its first rows are a random sample, the same in every run, and the rows of two
sides up to one and the same hash are a sample of both by the same rule.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.sides import SIDES
from ts4s_core.evaluation.figures.drift import Sample
from ts4s_core.evaluation.scoring.dataset_rows import ids_of, row_groups, table_of, truth_of
from ts4s_core.evaluation.scoring.predictions import ID_DTYPE, Bools
from ts4s_core.process_state import PROCESS
from ts4s_core.settings import StorageSettings

SAMPLE_ROW_GROUPS = 20
ROW_GROUPS_PER_CHUNK = 64
#: Texts of the training side that are looked up in the champion's dataset; exact below.
NOVELTY_ROW_GROUPS = 256
Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class OverlapJob:
    """What a worker needs to find the test ids of one dataset in another's training side."""

    storage: StorageSettings
    tested: str
    side: str
    trained_on: str


def seen_in_training(
    store: ArtifactStore, engine: DataEngine, *, tested: ArtifactRef, ids: Ids, trained_on: Iterable[ArtifactRef]
) -> Bools:
    """(N,): which rows' texts stand in the training side of any of some datasets.

    Args:
        store: holds the datasets.
        engine: reads the training sides in parallel.
        tested: the dataset whose test side the rows are.
        ids: (N,) ids of that side, in order.
        trained_on: the datasets to look in.
    """
    seen = np.zeros(len(ids), dtype=np.bool_)
    for dataset in trained_on:
        job = OverlapJob(store.storage.settings, str(tested), "test", str(dataset))
        groups = list(range(len(row_groups(store, dataset, "train"))))
        chunks = [groups[start : start + ROW_GROUPS_PER_CHUNK] for start in range(0, len(groups), ROW_GROUPS_PER_CHUNK)]
        for found in engine.map(functools.partial(_shared, job), chunks, stage="evaluate"):
            seen |= np.isin(ids, np.frombuffer(base64.b64decode(found), dtype=ID_DTYPE))
    return seen


def _shared(job: OverlapJob, indices: Sequence[int]) -> str:
    store = ArtifactStore.open(job.storage)
    with Dataset.open(store, ArtifactRef.parse(job.trained_on)) as dataset:
        ids = _ids(dataset, "train", indices)
    return base64.b64encode(ids[np.isin(ids, _tested_ids(job, store))].tobytes()).decode("ascii")


def _tested_ids(job: OverlapJob, store: ArtifactStore) -> Ids:
    """Ids of the whole tested side: 16 bytes a row, read once in a process."""

    def read() -> Ids:
        with Dataset.open(store, ArtifactRef.parse(job.tested)) as opened:
            return _ids(opened, job.side, range(len(opened.rows_per_group(job.side))))

    return PROCESS.get_or_make("tested ids", (job.storage, job.tested, job.side), read)


def _ids(dataset: Dataset, side: str, indices: Sequence[int]) -> Ids:
    return ids_of(table_of(dataset, side, indices, columns=["id"]))


def sample(store: ArtifactStore, dataset: ArtifactRef, *, row_groups_most: int = SAMPLE_ROW_GROUPS) -> Sample:
    """The first rows of the training side: texts with the names of their labels."""
    with Dataset.open(store, dataset) as opened:
        labels = opened.labels
        indices = range(min(len(opened.rows_per_group("train")), row_groups_most))
        table = table_of(opened, "train", indices, columns=["label", "text"])
    truth = truth_of(table, classes=len(labels))
    return Sample(table.column("text").to_pylist(), [[labels[place] for place in np.flatnonzero(row)] for row in truth])


def novelty(
    store: ArtifactStore, *, new: ArtifactRef, old: ArtifactRef, row_groups_most: int = NOVELTY_ROW_GROUPS
) -> dict[str, Any]:
    """How many texts of a training side no side of an older dataset has.

    Returns:
        ``{"texts": looked at, "new": of these, "whole": whether that was the whole side}``.
    """
    with Dataset.open(store, new) as fresh:
        count = len(fresh.rows_per_group("train"))
        texts = np.unique(_ids(fresh, "train", range(min(count, row_groups_most))))
    known = np.zeros(len(texts), dtype=np.bool_)
    with Dataset.open(store, old) as opened:
        for side in SIDES:
            for index in range(len(opened.rows_per_group(side))):
                ids = _ids(opened, side, [index])
                known |= np.isin(texts, ids)
                if ids[-1] > texts[-1]:
                    break
    return {"texts": len(texts), "new": int((~known).sum()), "whole": count <= row_groups_most}
