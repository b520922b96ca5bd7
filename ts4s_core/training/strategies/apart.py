"""Strategies whose ranks train alone and join from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ts4s_core.artifacts.facts import Record
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.step.engine import GradientNotFiniteError, StepStats, Sums
from ts4s_core.training.step.local_engine import LocalEngine
from ts4s_core.training.step.numbers import APART, LOSS_SUM, ApartNumbers, Records, floats, totals
from ts4s_core.training.strategies.strategy import Strategy


class Told(Record):
    """What a rank brings to a join: its numbers of the steps since the last one, and its running statistics by name."""

    pending: list[ApartNumbers]
    statistics: dict[str, list[float]]


class Apart(Strategy):
    """What strategies share whose ranks step apart: the figures that they put together at a join."""

    apart = True
    joins_to_save = False

    def __init__(self, engine: LocalEngine, peers: Peers) -> None:
        super().__init__(engine)
        self._peers = peers
        self._pending: list[ApartNumbers] = []
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
            ApartNumbers(
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
        """How stale this rank's gradient of the last step was, if the strategy knows such a thing."""
        return None

    def _tell(self, step: int) -> list[Told]:
        """What every rank brings to the join after ``step`` steps."""
        statistics = {name: values.reshape(-1).tolist() for name, values in self.statistics().items()}
        own = Told(pending=self._pending, statistics=statistics)
        return [Told.model_validate(told) for told in self._peers.gather(f"join/{step}", own.to_json())]

    def _together(self, told: Sequence[Told]) -> dict[int, StepStats]:
        """Average running statistics by items, and put together the figures of the steps since the last join."""
        numbers = np.array([[tuple(step) for step in rank.pending] for rank in told], APART)
        items = numbers["items"].sum(axis=1)
        if items.sum() > 0:
            for name, values in self.statistics().items():
                everybody = np.array([rank.statistics[name] for rank in told], np.float64)
                values[...] = (items @ everybody / items.sum()).reshape(values.shape)
        self._pending = []
        stale = self._staleness() is not None
        return {int(numbers["step"][0, place]): _joined(numbers[:, place], stale=stale) for place in range(numbers.shape[1])}


def _joined(ranks: Records, *, stale: bool) -> StepStats:
    """One step's figures from every rank's record of it."""
    total = ApartNumbers(**totals(ranks))
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
