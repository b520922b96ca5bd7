"""Facts of a trained version."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from ts4s_core.artifacts.facts import Facts, Record

#: Spark's figures of one executor by name (bytes, milliseconds, counts; ``executor`` and ``host`` are text).
ExecutorFigures: TypeAlias = dict[str, int | float | str | None]


class Staleness(Record):
    """How many updates others made between a rank's reading of the weights and its own update of them.

    Attributes:
        updates: number of updates that were counted.
        histogram: how many updates were how stale; JSON has no numbers for names, so they are text.
    """

    mean: float
    max: int
    updates: int
    histogram: dict[str, int]


class StrategyFacts(Record):
    """Facts of a run that depend on its strategy, as of its last join.

    Attributes:
        averages: times that weights were averaged (``averaging``).
        reproducible: False where the weights depend on the order in which ranks finish (``hogwild``).
        staleness: of the gradients (``hogwild``).
    """

    averages: int | None = None
    reproducible: bool | None = None
    staleness: Staleness | None = None


class TrainedFacts(StrategyFacts, Facts):
    """Facts of a trained version.

    Attributes:
        weights_sha256: over the trained tensors alone: names in order, dtype, shape, raw bytes.
        steps: that were taken.
        tokens_per_s: real tokens a second over steady steps.
        padding_fraction: share of the computed tokens that are padding.
        seconds: of the whole step.
        restarts: attempts that failed.
        workers: of the last attempt.
        executors: Spark's figures; none without Spark.
        validation_loss: the best one with early stopping, else the last one.
        best_step: after how many steps it was reached.
    """

    NOUN: ClassVar[str] = "trained version"
    REMEDY: ClassVar[str] = "Train it again"

    weights_sha256: str
    steps: int = 0
    tokens_per_s: float | None = None
    padding_fraction: float | None = None
    seconds: float | None = None
    restarts: int = 0
    workers: int | None = None
    executors: list[ExecutorFigures] = []
    validation_loss: float | None = None
    best_step: int | None = None
