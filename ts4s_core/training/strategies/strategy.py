"""How the loop sees a strategy: how ranks step, and when they bring their weights together.

With ``synchronous`` every step is everybody's. The others (``averaging`` and ``hogwild``) let ranks step *apart* on their own
parts, and *join* now and then: at a join every rank has the same weights, and the figures of the steps since the last one
are put together. The loop, its plan of batches and its checkpoints are the same for all.
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
    """A rank's engine, and how it goes together with its peers'.

    Attributes:
        apart: whether ranks step on their own between joins.
        joins_to_save: whether a checkpoint needs a join.
    """

    apart: bool
    joins_to_save: bool

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parts_per_rank = engine.parts_per_rank

    @abstractmethod
    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """Take one step; see :meth:`Engine.step`. Apart, the figures are an estimate until the next join."""

    @abstractmethod
    def joins_after(self, planned: PlannedStep) -> bool:
        """Whether ranks join after a step, whatever else happens then."""

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
        """Everybody's sums, added in part order; the ranks have joined."""

    @abstractmethod
    def saved(self) -> dict[str, torch.Tensor]:
        """A copy of this rank's own share of a checkpoint."""

    @abstractmethod
    def facts(self) -> StrategyFacts:
        """What the strategy says of the run as of the last join."""

    def checkpoint_interval(self, every_steps: int) -> int:
        """Steps between checkpoints."""
        return every_steps

    def own_parts(self) -> range:
        """The numbers of the parts that this rank computes."""
        return self.engine.own_parts()

    def evaluate(self, batches: Sequence[PartBatch | None]) -> Records:
        """Loss sums and items of the rank's own parts; see :meth:`Engine.evaluate`."""
        return self.engine.evaluate(batches)

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

    def close(self) -> None:
        """Let go of the model and of the peers."""
        self.engine.close()


class MakeStrategy(Protocol):
    """Makes the strategy of one rank, taken up where the checkpoint left it."""

    def __call__(self, setup: TrainingSetup, peers: Peers, *, exchange: str, checkpoint: Checkpoint | None) -> Strategy:
        """See :func:`ts4s_core.training.strategies.synchronous.synchronous`."""
