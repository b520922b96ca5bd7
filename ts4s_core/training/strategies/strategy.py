"""What the training loop asks of a strategy: how ranks step, and when they bring their weights together.

With ``synchronous`` all ranks take every step together. With the others (``averaging`` and ``hogwild``) ranks step
*independently*, each on its own parts, and *join* now and then: after a join every rank has the same weights, and the figures
of the steps since the last join are combined. The loop, its plan of batches and its checkpoints are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch

from ts4s_core.models.weights import Array
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.batches.read_ahead import PlannedStep
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step.engine import Engine, StepStats, Sums
from ts4s_core.training.step.numbers import Records
from ts4s_core.training.step.setup import TrainingSetup


class Strategy(ABC):
    """A rank's engine, and how its results are combined with those of its peers.

    Attributes:
        independent: whether ranks step independently between joins.
        joins_to_save: whether a checkpoint needs a join.
    """

    independent: bool
    joins_to_save: bool

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parts_per_rank = engine.parts_per_rank

    @abstractmethod
    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """Take one step; see :meth:`Engine.step`. Of independent ranks, the figures are an estimate until the next join."""

    @abstractmethod
    def joins_after(self, planned: PlannedStep) -> bool:
        """Whether the strategy itself asks for a join after a step."""

    @abstractmethod
    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """Bring all ranks to the same weights after ``step`` steps.

        Args:
            step: steps that are done.
            saving: whether :meth:`saved` comes next.

        Returns:
            the figures of every step since the last join.
        """

    @abstractmethod
    def gather_sums(self, sums: Records) -> Sums:
        """All ranks' sums, added in part order; called only after a join."""

    @abstractmethod
    def saved(self) -> dict[str, torch.Tensor]:
        """A copy of this rank's own share of a checkpoint."""

    @abstractmethod
    def facts(self) -> StrategyFacts:
        """Facts of the run as of the last join."""

    def checkpoint_interval(self, every_steps: int) -> int:
        """Steps between checkpoints."""
        return every_steps

    def own_parts(self) -> range:
        """The numbers of the parts that this rank computes."""
        return self.engine.own_parts()

    def evaluate(self, batches: Sequence[PartBatch | None]) -> Records:
        """Loss sums and items of the rank's own parts; see :meth:`Engine.evaluate`."""
        return self.engine.evaluate(batches)

    def find_non_finite_parts(self, batches: Sequence[PartBatch | None], *, step: int) -> list[int]:
        """Own parts whose loss or gradient is not finite."""
        return self.engine.find_non_finite_parts(batches, step=step)

    def weights(self) -> dict[str, torch.Tensor]:
        """The trainable parameters by the module's names: views of the rank's current ones."""
        exchange = self.engine.exchange
        return exchange.layout.views(exchange.parameters)

    def statistics(self) -> dict[str, Array]:
        """Running statistics by name; views."""
        return self.engine.statistics.values()

    def close(self) -> None:
        """Release the model and the connections to the peers."""
        self.engine.close()


class MakeStrategy(Protocol):
    """Makes the strategy of one rank, taken up where the checkpoint left it."""

    def __call__(self, setup: TrainingSetup, peers: Peers, *, exchange: str, checkpoint: Checkpoint | None) -> Strategy:
        """See :func:`ts4s_core.training.strategies.synchronous.synchronous`."""
