"""Strategies whose ranks train alone and join from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.step.engine import GradientNotFiniteError, StepStats, Sums
from ts4s_core.training.step.local_engine import LocalEngine
from ts4s_core.training.strategies.strategy import Strategy

#: Numbers of a step that ranks put together at a join: step, loss sum, items, tokens, padded tokens, norm, MiB, staleness,
#: right predictions, predictions.
_NUMBERS = 10


class Apart(Strategy):
    """What strategies share whose ranks step apart: the figures that they put together at a join."""

    apart = True
    joins_to_save = False

    def __init__(self, engine: LocalEngine, peers: Peers) -> None:
        super().__init__(engine)
        self._peers = peers
        self._pending: list[list[float]] = []
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
        seen = [stats.items, stats.tokens, stats.padded_tokens]
        measured = [stats.grad_norm, memory_mib, stats.staleness or 0.0]
        self._pending.append([step, stats.loss * stats.items, *seen, *measured, stats.correct, stats.predictions])
        peers = self._peers.world_size
        return replace(stats, tokens=stats.tokens * peers, padded_tokens=stats.padded_tokens * peers)

    def gather_sums(self, sums: NDArray[np.float64]) -> Sums:
        """See :meth:`Strategy.gather_sums`."""
        self._validations += 1
        everybody = np.array(self._peers.gather(f"validation/{self._validations}", sums.reshape(-1).tolist())).reshape(-1, 2)
        return Sums(float(np.sum(everybody[:, 0])), float(np.sum(everybody[:, 1])))

    def _staleness(self) -> float | None:
        """How stale this rank's gradient of the last step was, if the strategy knows such a thing."""
        return None

    def _told(self) -> dict[str, Any]:
        """What a rank brings to a join."""
        statistics = {name: values.reshape(-1).tolist() for name, values in self.statistics().items()}
        return {"pending": self._pending, "statistics": statistics}

    def _together(self, told: Sequence[dict[str, Any]]) -> dict[int, StepStats]:
        """Average running statistics by items, and put together the figures of the steps since the last join."""
        numbers = np.array([rank["pending"] for rank in told], np.float64).reshape(len(told), -1, _NUMBERS)
        items = numbers[:, :, 2].sum(axis=1)
        if items.sum() > 0:
            for name, values in self.statistics().items():
                everybody = np.array([rank["statistics"][name] for rank in told], np.float64)
                values[...] = (items @ everybody / items.sum()).reshape(values.shape)
        self._pending = []
        stale = self._staleness() is not None
        return {int(numbers[0, place, 0]): _joined(numbers[:, place], stale=stale) for place in range(numbers.shape[1])}


def _joined(ranks: NDArray[np.float64], *, stale: bool) -> StepStats:
    """One step's figures from (rank, number)."""
    _step, loss, items, tokens, padded, _norm, _memory, staleness, correct, predictions = ranks.sum(axis=0)
    norm = float(np.dot(ranks[:, 5], ranks[:, 2])) / (items or 1.0)
    return StepStats(
        loss=float(loss / (items or 1.0)),
        grad_norm=norm,
        tokens=int(tokens),
        padded_tokens=int(padded),
        flag=False,
        memory_mib=float(ranks[:, 6].max()),
        items=float(items),
        staleness=float(staleness) / len(ranks) if stale else None,
        correct=float(correct),
        predictions=float(predictions),
        memories_mib=tuple(ranks[:, 6].tolist()),
    )
