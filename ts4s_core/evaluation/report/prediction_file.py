"""``predictions.parquet``: every answer beside its row, and the wrong ones that the model was surest of."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.dataset import Dataset
from ts4s_core.evaluation.report.data import Mistake
from ts4s_core.evaluation.scoring.dataset_rows import dataset_labels, row_groups, table_of
from ts4s_core.evaluation.scoring.predictions import Bools, Predictions, class_indices

MISTAKES = 20
SIDE = "test"
ROW_GROUPS_AT_ONCE = 64


def write_predictions(store: ArtifactStore, dataset: ArtifactRef, answers: Predictions, *, local: Path, show_text: bool) -> None:
    """Write the answers row group by row group; texts are read again from the dataset, so that memory does not grow with them.

    Columns: id, label and predicted (class numbers; multi-label: lists), probabilities (a list over the classes), loss, correct,
    and text unless ``show_text`` is false.
    """
    opened = Dataset.open(store, dataset)
    counts = row_groups(store, dataset, SIDE)
    start = 0
    with RowGroupWriter(local, _schema(answers, show_text=show_text)) as writer:
        for first in range(0, len(counts), ROW_GROUPS_AT_ONCE):
            indices = list(range(first, min(first + ROW_GROUPS_AT_ONCE, len(counts))))
            rows = slice(start, start + sum(counts[first : first + ROW_GROUPS_AT_ONCE]))
            texts = table_of(opened, SIDE, indices, columns=["text"]).column("text") if show_text else None
            writer.write(_table(answers, rows, texts))
            start = rows.stop


def _schema(answers: Predictions, *, show_text: bool) -> pa.Schema:
    label = pa.list_(pa.int32()) if answers.multi_label else pa.int32()
    fields = [
        ("id", pa.binary(16)),
        ("label", label),
        ("predicted", label),
        ("probabilities", pa.list_(pa.float32())),
        ("loss", pa.float64()),
        ("correct", pa.bool_()),
    ]
    return pa.schema([*fields, ("text", pa.string())] if show_text else fields)


def _table(answers: Predictions, rows: slice, texts: Any | None) -> pa.Table:
    part = answers.only(rows)
    ids = part.ids.tobytes()
    columns: dict[str, Any] = {
        "id": [ids[place : place + 16] for place in range(0, len(ids), 16)],
        "label": _classes(part.truth, multi_label=part.multi_label),
        "predicted": _classes(part.predicted, multi_label=part.multi_label),
        "probabilities": list(part.probabilities.astype(np.float32)),
        "loss": part.losses,
        "correct": part.correct,
    }
    if texts is not None:
        columns["text"] = texts
    return pa.table(columns, schema=_schema(answers, show_text=texts is not None))


def _classes(mask: Bools, *, multi_label: bool) -> list[list[int]] | npt.NDArray[np.int64]:
    return [np.flatnonzero(row).tolist() for row in mask] if multi_label else class_indices(mask)


def most_confident_mistakes(
    store: ArtifactStore, dataset: ArtifactRef, answers: Predictions, *, show_text: bool, most: int = MISTAKES
) -> list[Mistake]:
    """The wrong answers of the highest confidence, most confident first."""
    labels = dataset_labels(store, dataset)
    wrong = np.flatnonzero(~answers.correct)
    chosen = heapq.nsmallest(most, wrong.tolist(), key=lambda row: (-answers.confidence[row], row))
    texts = _texts(store, dataset, chosen) if show_text else {}
    return [
        Mistake(
            id=answers.ids[row : row + 1].tobytes().hex(),
            text=texts.get(row),
            label=_names(answers.truth[row], labels),
            predicted=_names(answers.predicted[row], labels),
            confidence=float(answers.confidence[row]),
        )
        for row in chosen
    ]


def _names(mask: Bools, labels: list[str]) -> str:
    return ", ".join(labels[place] for place in np.flatnonzero(mask)) or "no label"


def _texts(store: ArtifactStore, dataset: ArtifactRef, rows: list[int]) -> dict[int, str]:
    """Texts of some rows of the test side, by row number."""
    opened = Dataset.open(store, dataset)
    ends = np.cumsum(row_groups(store, dataset, SIDE))
    texts = {}
    for row in rows:
        group = int(np.searchsorted(ends, row, side="right"))
        within = row - (int(ends[group - 1]) if group else 0)
        texts[row] = table_of(opened, SIDE, [group], columns=["text"]).column("text")[within].as_py()
    return texts
