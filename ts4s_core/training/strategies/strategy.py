"""How the loop sees a strategy; the one here is synchronous training, in which every step is everybody's.

The others (``averaging`` and ``hogwild`` in this package) let ranks step *apart* on their own
parts, and *join* now and then: at a join every rank has the same weights, and the figures of the steps since the last one
are put together. The loop, its plan of batches and its checkpoints are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ts4s_core.models.weights import Array
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.batches.read_ahead import PlannedStep
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step.engine import Engine, StepStats, Sums


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

    def facts(self) -> StrategyFacts:
        """What the strategy says of the run as of the last join."""
        return StrategyFacts()

    def close(self) -> None:
        """Let go of the model and of the peers."""
        self.engine.close()
