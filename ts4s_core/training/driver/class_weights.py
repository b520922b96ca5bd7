"""Class weights for skewed labels."""

from __future__ import annotations

import numpy as np

from ts4s_core.data.dataset import Dataset


def balanced_weights(dataset: Dataset) -> list[float]:
    """Weight of each class: the inverse of its share of the training rows, 1 on average over the rows."""
    counts = np.zeros(len(dataset.labels), np.int64)
    for table in dataset.read("train", ["label"]):
        counts += np.bincount(table.column("label").to_numpy(), minlength=len(counts))
    seen = np.maximum(counts, 1)
    return [float(weight) for weight in counts.sum() / (np.count_nonzero(counts) * seen)]
