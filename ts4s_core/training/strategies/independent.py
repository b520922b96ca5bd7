"""Strategies whose ranks train independently and join from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ts4s_core.artifacts.facts import Record
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.step.engine import GradientNotFiniteError, StepStats, Sums
from ts4s_core.training.step.independent_engine import IndependentEngine
from ts4s_core.training.step.numbers import LOCAL_STEP, LOSS_SUM, LocalStepNumbers, Records, floats, totals
from ts4s_core.training.strategies.strategy import Strategy


class JoinContribution(Record):
    """What a rank sends at a join.

    Attributes:
        pending: its numbers of the steps since the last join.
        statistics: its running statistics by name.
    """

    pending: list[LocalStepNumbers]
    statistics: dict[str, list[float]]


class IndependentStrategy(Strategy):
    """Base of the strategies whose ranks step independently: keeps each step's figures and combines them at a join."""

    independent = True
    joins_to_save = False

    def __init__(self, engine: IndependentEngine, peers: Peers) -> None:
        super().__init__(engine)
        self._peers = peers
        self._pending: list[LocalStepNumbers] = []
        self._validations = 0

    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """See :meth:`Strategy.step`. A step in which this rank has no rows changes nothing."""
        stats = StepStats(0.0, 0.0, 0, 0, False, memory_mib, 0.0)
        if any(batch is not None for batch in batches):
            try:
                stats = self.engine.step(batches, step=step, rate=rate, flag=False, memory_mib=memory_mib)
            except GradientNotFiniteError as exc:
                first = self.own_parts().start
                raise GradientNotFiniteError(step, [first + part for part in exc.parts]) from exc
        stats = replace(stats, staleness=self._staleness())
        self._pending.append(
            LocalStepNumbers(
                step=step,
                loss=stats.loss * stats.items,
                items=stats.items,
                tokens=stats.tokens,
                padded_tokens=stats.padded_tokens,
                grad_norm=stats.grad_norm,
                memory_mib=memory_mib,
                staleness=stats.staleness or 0.0,
                correct=stats.correct,
                predictions=stats.predictions,
            )
        )
        peers = self._peers.world_size
        return replace(stats, tokens=stats.tokens * peers, padded_tokens=stats.padded_tokens * peers)

    def gather_sums(self, sums: Records) -> Sums:
        """See :meth:`Strategy.gather_sums`."""
        self._validations += 1
        everybody = np.array(self._peers.gather(f"validation/{self._validations}", floats(sums).tolist()))
        return Sums.of(everybody.reshape(-1).view(LOSS_SUM))

    def _staleness(self) -> float | None:
        """How stale this rank's gradient of the last step was; None if the strategy has no stale gradients."""
        return None

    def _gather_contributions(self, step: int) -> list[JoinContribution]:
        """Every rank's contribution to the join after ``step`` steps, in rank order."""
        statistics = {name: values.reshape(-1).tolist() for name, values in self.statistics().items()}
        own = JoinContribution(pending=self._pending, statistics=statistics)
        return [JoinContribution.model_validate(rank) for rank in self._peers.gather(f"join/{step}", own.to_json())]

    def _combine(self, contributions: Sequence[JoinContribution]) -> dict[int, StepStats]:
        """Average the running statistics, weighted by items, and combine the figures of the steps since the last join."""
        numbers = np.array([[tuple(step) for step in rank.pending] for rank in contributions], LOCAL_STEP)
        items = numbers["items"].sum(axis=1)
        if items.sum() > 0:
            for name, values in self.statistics().items():
                everybody = np.array([rank.statistics[name] for rank in contributions], np.float64)
                values[...] = (items @ everybody / items.sum()).reshape(values.shape)
        self._pending = []
        stale = self._staleness() is not None
        return {int(numbers["step"][0, place]): _joined(numbers[:, place], stale=stale) for place in range(numbers.shape[1])}


def _joined(ranks: Records, *, stale: bool) -> StepStats:
    """One step's figures from every rank's record of it."""
    total = LocalStepNumbers(**totals(ranks))
    items = total.items or 1.0
    return StepStats(
        loss=total.loss / items,
        grad_norm=float(np.dot(ranks["grad_norm"], ranks["items"])) / items,
        tokens=int(total.tokens),
        padded_tokens=int(total.padded_tokens),
        flag=False,
        memory_mib=float(ranks["memory_mib"].max()),
        items=total.items,
        staleness=total.staleness / len(ranks) if stale else None,
        correct=total.correct,
        predictions=total.predictions,
        memories_mib=tuple(ranks["memory_mib"].tolist()),
    )
