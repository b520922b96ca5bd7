"""What a fitted model says of its training, epoch by epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    Attributes:
        epoch: its number, from 1.
        steps: mini-batches of it.
        loss: mean over its mini-batches.
        validation_loss: after it; None without validation rows.
        learning_rate: at its end.
    """

    epoch: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float


@dataclass(frozen=True)
class TrainingSummary:
    """The history of a fit.

    Attributes:
        epochs: in order.
    """

    epochs: tuple[Epoch, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> TrainingSummary:
        """The summary of a model's facts."""
        return cls(tuple(Epoch(**epoch) for epoch in facts["epochs"]))

    @property
    def objectiveHistory(self) -> list[float]:  # noqa: N802 - Spark's own summaries have this name
        """The loss of each epoch."""
        return [epoch.loss for epoch in self.epochs]

    @property
    def totalIterations(self) -> int:  # noqa: N802 - likewise
        """Mini-batches of all epochs."""
        return sum(epoch.steps for epoch in self.epochs)


def epochs_of(metrics: Path) -> list[dict[str, Any]]:
    """The epochs of a run's ``metrics.csv``, JSON values."""
    with metrics.open(encoding="utf-8", newline="") as file:
        steps = list(csv.DictReader(file))
    found: dict[str, list[dict[str, str]]] = {}
    for step in steps:
        found.setdefault(step["epoch"], []).append(step)
    return [_epoch(number, rows) for number, rows in enumerate(found.values(), 1)]


def _epoch(number: int, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    last = rows[-1]
    return {
        "epoch": number,
        "steps": len(rows),
        "loss": sum(float(row["loss"]) for row in rows) / len(rows),
        "validation_loss": float(last["validation_loss"]) if last["validation_loss"] else None,
        "learning_rate": float(last["learning_rate"]),
    }
