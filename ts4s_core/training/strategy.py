"""How the loop sees a strategy; the one here is synchronous training, in which every step is everybody's.

The others (:mod:`ts4s_core.training.averaging`, :mod:`ts4s_core.training.hogwild`) let ranks step *apart* on their own
parts, and *join* now and then: at a join every rank has the same weights, and the figures of the steps since the last one
are put together. The loop, its plan of batches and its checkpoints are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ts4s_core.onnx.weights import Array
from ts4s_core.settings import TrainSettings
from ts4s_core.training.batches import PartBatch
from ts4s_core.training.checkpoint import Checkpoint
from ts4s_core.training.engine import Engine, GradientNotFiniteError, StepStats, Sums
from ts4s_core.training.exchange import Exchange
from ts4s_core.training.flat import Layout, attach
from ts4s_core.training.optimiser import Optimiser, SlicedAdamW, SlicedOptimiser
from ts4s_core.training.setup import Peers, connect
from ts4s_core.training.windows import PlannedStep

#: Numbers of a step that ranks put together at a join: step, loss sum, items, tokens, padded tokens, norm, MiB, staleness,
#: right predictions, predictions.
_NUMBERS = 10

MakeEngine = Callable[..., Engine]


class Strategy:
    """Synchronous training with an engine.

    Attributes:
        apart: whether ranks step on their own between joins.
        joins_to_save: whether a checkpoint needs a join.
    """

    apart = False
    joins_to_save = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parts_per_rank = engine.parts_per_rank

    def own_parts(self) -> range:
        """The numbers of the parts that this rank computes."""
        return self.engine.own_parts()

    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """Take one step; see :meth:`Engine.step`. Apart, the figures are an estimate until the next join."""
        return self.engine.step(batches, step=step, rate=rate, flag=flag, memory_mib=memory_mib)

    def checkpoint_interval(self, every_steps: int) -> int:
        """Steps between checkpoints."""
        return every_steps

    def joins_after(self, planned: PlannedStep) -> bool:
        """Whether ranks join after a step, whatever else happens then."""
        return False

    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """Bring all ranks to the same weights after ``step`` steps.

        Args:
            step: steps that are done.
            saving: whether :meth:`saved` comes next.

        Returns:
            the figures of every step since the last join.
        """
        return {}

    def evaluate(self, batches: Sequence[PartBatch | None]) -> NDArray[np.float64]:
        """Loss sums and items of the rank's own parts; see :meth:`Engine.evaluate`."""
        return self.engine.evaluate(batches)

    def gather_sums(self, sums: NDArray[np.float64]) -> Sums:
        """Everybody's sums, added in part order; the ranks have joined."""
        return self.engine.gather_sums(sums)

    def suspects(self, batches: Sequence[PartBatch | None], *, step: int) -> list[int]:
        """Own parts whose loss or gradient is not finite."""
        return self.engine.suspects(batches, step=step)

    def weights(self) -> dict[str, torch.Tensor]:
        """The trainable parameters by the module's names: views of the rank's current ones."""
        exchange = self.engine.exchange
        return exchange.layout.views(exchange.parameters)

    def statistics(self) -> dict[str, Array]:
        """Running statistics by name; views."""
        return self.engine.statistics.values()

    def saved(self) -> dict[str, torch.Tensor]:
        """A copy of this rank's own share of a checkpoint."""
        return self.engine.optimiser.state()

    def facts(self) -> dict[str, Any]:
        """What the strategy says of the run as of the last join, as JSON values."""
        return {}

    def close(self) -> None:
        """Let go of the model and of the peers."""
        self.engine.close()


class LocalEngine(Engine):
    """An engine of one rank's parts alone, which have their own numbers among all."""

    def __init__(self, *arguments: Any, first_part: int, **named: Any) -> None:
        self._first_part = first_part
        super().__init__(*arguments, **named)

    def own_parts(self) -> range:
        """See :meth:`Engine.own_parts`."""
        return range(self._first_part, self._first_part + self.parts_per_rank)


class Apart(Strategy):
    """What strategies share whose ranks step apart: the figures that they put together at a join."""

    apart = True

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


@dataclass(frozen=True)
class Parts:
    """What a strategy that steps apart is put together from.

    Attributes:
        parameters: what is trained.
        layout: of those.
        make_optimiser: the model's own optimiser; None: AdamW.
        make_engine: from an Engine class, an exchange and an optimiser to an engine.
    """

    parameters: dict[str, nn.Parameter]
    layout: Layout
    settings: TrainSettings
    peers: Peers
    checkpoint: Checkpoint | None
    exchange_kind: str
    make_optimiser: Callable[[Exchange], SlicedOptimiser] | None
    make_engine: MakeEngine

    def optimiser(self, exchange: Exchange) -> SlicedOptimiser:
        """What updates an exchange's own slices."""
        if self.make_optimiser is not None:
            return self.make_optimiser(exchange)
        return SlicedAdamW(exchange, weight_decay=self.settings.weight_decay)

    def local_exchange(self) -> Exchange:
        """Buckets of this rank alone."""
        return Exchange(self.layout, rank=0, world_size=1, timeout_s=self.peers.timeout_s)

    def local_engine(self, exchange: Exchange, optimiser: Optimiser) -> LocalEngine:
        """An engine of the rank's own parts."""
        count = self.settings.logical_shards // self.peers.world_size
        engine = self.make_engine(LocalEngine, exchange, optimiser, parts=count, first_part=self.peers.rank * count)
        assert isinstance(engine, LocalEngine)
        return engine


def synchronous(parts: Parts) -> Strategy:
    """Synchronous training for one rank, taken up where the checkpoint left it.

    Raises:
        TrainingError: if the ranks cannot reach each other.
        IntegrityError: if the checkpoint does not fit.
    """
    exchange, one_copy = connect(parts.layout, parts.peers, kind=parts.exchange_kind)
    attach(parts.parameters, parts.layout.views(exchange.parameters), copy=parts.peers.rank == 0 or not one_copy)
    exchange.publish()  # nobody reads shared parameters before rank 0 has written them
    optimiser = parts.optimiser(exchange)
    if parts.checkpoint is not None:
        optimiser.restore(parts.checkpoint)
    return Strategy(parts.make_engine(Engine, exchange, optimiser, parts=parts.settings.logical_shards))
