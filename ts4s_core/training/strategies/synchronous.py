"""Strategy ``synchronous``: all ranks step together, so that any number of them gives the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.batches.read_ahead import PlannedStep
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.buckets import attach
from ts4s_core.training.exchange.connect import connect
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step.engine import StepStats, Sums
from ts4s_core.training.step.numbers import Records
from ts4s_core.training.step.setup import TrainingSetup
from ts4s_core.training.strategies.strategy import Strategy


class Synchronous(Strategy):
    """All ranks take every step together: joins do nothing, and each rank can save its own slices at any time."""

    independent = False
    joins_to_save = False

    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """See :meth:`Engine.step`."""
        return self.engine.step(batches, step=step, rate=rate, flag=flag, memory_mib=memory_mib)

    def joins_after(self, planned: PlannedStep) -> bool:
        """Never: all ranks have the same weights after every step."""
        return False

    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """Does nothing."""
        return {}

    def gather_sums(self, sums: Records) -> Sums:
        """See :meth:`Engine.gather_sums`."""
        return self.engine.gather_sums(sums)

    def saved(self) -> dict[str, torch.Tensor]:
        """The moments of this rank's slices."""
        return self.engine.optimizer.state()

    def facts(self) -> StrategyFacts:
        """None."""
        return StrategyFacts()


def synchronous(setup: TrainingSetup, peers: Peers, *, exchange: str, checkpoint: Checkpoint | None) -> Synchronous:
    """The strategy for one rank, taken up where the checkpoint left it.

    Args:
        setup: what is trained.
        peers: the ranks.
        exchange: ``auto``, ``shared-memory`` or ``network``.
        checkpoint: to go on from.

    Raises:
        TrainingError: if the ranks cannot reach each other.
        IntegrityError: if the checkpoint does not fit.
    """
    buckets, one_copy = connect(setup.layout, peers, kind=exchange)
    attach(setup.parameters, setup.layout.views(buckets.parameters), copy=peers.rank == 0 or not one_copy)
    buckets.publish()  # nobody reads shared parameters before rank 0 has written them
    optimizer = setup.optimizer(buckets)
    if checkpoint is not None:
        optimizer.restore(checkpoint)
    return Synchronous(setup.engine(buckets, optimizer))
