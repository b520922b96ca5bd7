"""The numbers of a step that ranks gather, by name: each a float64 in a record of its own dtype.

Totals are added record by record, in the order of the records: a column alone would be added pairwise, which gives other bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class PartNumbers(NamedTuple):
    """A part's numbers in the gather of a step.

    Attributes:
        loss: sum over its items.
        items: what the loss is summed over.
        tokens: real ones.
        padded_tokens: with padding.
        correct: predictions that were right.
        predictions: their number.
    """

    loss: float
    items: float
    tokens: float
    padded_tokens: float
    correct: float
    predictions: float


class RankNumbers(NamedTuple):
    """A rank's numbers in the gather of a step: its flag, 0 or 1, and its memory in MiB."""

    flag: float
    memory_mib: float


class LossSum(NamedTuple):
    """Loss and items of a part that was evaluated."""

    loss: float
    items: float


class LocalStepNumbers(NamedTuple):
    """One step of a rank that trains independently, kept for the next join.

    Attributes:
        step: its number, from 0.
        loss: sum over the rank's items.
        items: what the loss is summed over.
        tokens: real ones.
        padded_tokens: with padding.
        grad_norm: of the rank's own mean gradient.
        memory_mib: of the rank.
        staleness: of its gradient.
        correct: predictions that were right.
        predictions: their number.
    """

    step: float
    loss: float
    items: float
    tokens: float
    padded_tokens: float
    grad_norm: float
    memory_mib: float
    staleness: float
    correct: float
    predictions: float


def _record(kind: type[Any]) -> np.dtype[np.void]:
    return np.dtype([(name, np.float64) for name in kind._fields])


PART, RANK, LOSS_SUM, LOCAL_STEP = (_record(kind) for kind in (PartNumbers, RankNumbers, LossSum, LocalStepNumbers))

Records = NDArray[np.void]


def step_record(*, parts: int, squares: int) -> np.dtype[np.void]:
    """What a rank brings to the gather of a step: its own numbers, those of its parts, and its blocks' sums of squares."""
    return np.dtype([("rank", RANK), ("parts", PART, (parts,)), ("squares", np.float64, (squares,))])


def floats(records: Records) -> NDArray[np.float64]:
    """Contiguous records as one vector of numbers."""
    return records.view(np.float64).reshape(-1)


def totals(records: Records) -> dict[str, float]:
    """Sums by name of records of floats, (N,): added record by record in their order."""
    names = records.dtype.names or ()
    rows = floats(np.ascontiguousarray(records)).reshape(-1, len(names))
    return dict(zip(names, rows.sum(axis=0).tolist(), strict=True))
