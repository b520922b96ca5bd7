"""Strategy ``averaging``: ranks train independently, then weights and moments are averaged, weighted by the items seen.

Between joins nothing is sent. A rank's step uses its own parts of the same planned batches, its own gradient norm and a
whole set of moments. At a join each rank's weights, first and second moments are weighed by its share of the items since
the last one and summed in the fixed tree of the exchange, so that at a fixed number of workers the result is the same, bit
for bit, also for a run that was killed and went on: a checkpoint may fall between joins, because it keeps every rank's own
state. With another number of workers ranks would have seen other batches: such a checkpoint is refused.

Ranks join every ``train.averaging_frequency`` steps (0: at the end of each epoch), before a validation, and at the end.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors import safe_open

from ts4s_core.errors import InputError, IntegrityError, TrainingError
from ts4s_core.training.batches.read_ahead import PlannedStep
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.connect import connect
from ts4s_core.training.exchange.exchange import Exchange
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.optimizers.adamw import SlicedAdamW
from ts4s_core.training.step.engine import StepStats
from ts4s_core.training.step.independent_engine import IndependentEngine
from ts4s_core.training.step.numbers import LocalStepNumbers
from ts4s_core.training.step.setup import TrainingSetup
from ts4s_core.training.strategies.independent import IndependentStrategy

_WEIGHT, _STATISTIC, _PENDING = "weight", "statistic", "pending"


class Averaging(IndependentStrategy):
    """Local steps, and averages at joins; see the module."""

    def __init__(
        self, engine: IndependentEngine, optimizer: SlicedAdamW, shared: Exchange, *, peers: Peers, frequency: int
    ) -> None:
        super().__init__(engine, peers)
        self._optimizer = optimizer
        self._shared = shared
        self._frequency = frequency
        self._averages = 0

    def joins_after(self, planned: PlannedStep) -> bool:
        """See :meth:`Strategy.joins_after`."""
        return (planned.step + 1) % self._frequency == 0 if self._frequency else planned.ends_epoch

    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """See :meth:`Strategy.join`."""
        contributions = self._gather_contributions(step)
        items = np.array([sum(step.items for step in rank.pending) for rank in contributions], np.float64)
        if items.sum() > 0:
            share = float(items[self._peers.rank] / items.sum())
            for buckets in self._state().values():
                self._average(buckets, share)
        self._averages += 1
        return self._combine(contributions)

    def saved(self) -> dict[str, torch.Tensor]:
        """See :meth:`Strategy.saved`: this rank's own weights and moments, and the figures that wait for the next join."""
        named = self.engine.optimizer.state()
        for bucket, flat in enumerate(self.engine.exchange.parameters):
            named[f"{_WEIGHT}/{bucket}/0/{len(flat)}"] = flat.clone()
        for name, values in self.statistics().items():
            named[f"{_STATISTIC}/{name}"] = torch.from_numpy(values.copy())
        named[_PENDING] = torch.tensor(self._pending, dtype=torch.float64)
        return named

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up this rank's own state.

        Raises:
            TrainingError: if another number of workers wrote the checkpoint.
            IntegrityError: if it was written for another model.
        """
        files = sorted(checkpoint.folder.glob("moments-*.safetensors"))
        if len(files) != self._peers.world_size:
            raise TrainingError(
                f"Training cannot resume from checkpoint {checkpoint.folder.name}: with train.strategy averaging expected "
                f"train.workers {len(files)}, as when it was written, got {self._peers.world_size}. Set train.workers "
                f"{len(files)}, or start over with --reuse false"
            )
        with safe_open(files[self._peers.rank], framework="pt") as file:
            self._pending = [LocalStepNumbers(*row) for row in file.get_tensor(_PENDING).tolist()]
            for kind, buckets in self._state().items():
                for bucket, flat in enumerate(buckets):
                    name = f"{kind}/{bucket}/0/{len(flat)}"
                    if name not in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                        raise IntegrityError(f"Checkpoint {checkpoint.folder.name} lacks {name}: it was made for another model")
                    flat.copy_(file.get_tensor(name))
            for name, values in self.statistics().items():
                values[...] = file.get_tensor(f"{_STATISTIC}/{name}").numpy()

    def facts(self) -> StrategyFacts:
        """See :meth:`Strategy.facts`."""
        return StrategyFacts(averages=self._averages)

    def resume(self, facts: StrategyFacts) -> None:
        """Count on from an earlier attempt's facts."""
        self._averages = facts.averages or 0

    def close(self) -> None:
        """See :meth:`Strategy.close`."""
        super().close()
        self._shared.close()

    def _state(self) -> dict[str, list[torch.Tensor]]:
        """Everything that is averaged, as whole buckets."""
        moments = self._optimizer.moments
        return {
            _WEIGHT: self.engine.exchange.parameters,
            "exp_avg": [first for first, _ in moments],
            "exp_avg_sq": [second for _, second in moments],
        }

    def _average(self, buckets: list[torch.Tensor], share: float) -> None:
        """Replace every rank's buckets by their weighted sum."""
        shared = self._shared
        for bucket, flat in enumerate(buckets):
            torch.mul(flat, share, out=shared.gradients[bucket])
            shared.bucket_done(bucket)
        shared.collect()
        for bucket, (start, stop) in enumerate(shared.slices):
            shared.parameters[bucket][start:stop] = shared.gradients[bucket][start:stop]
        shared.publish()
        # No rank writes the shared copy again before all have brought their next buckets, and so have read this one.
        for flat, average in zip(buckets, shared.parameters, strict=True):
            flat.copy_(average)


def averaging(setup: TrainingSetup, peers: Peers, *, exchange: str, checkpoint: Checkpoint | None) -> Averaging:
    """The strategy for one rank, taken up where the checkpoint left it.

    Args:
        setup: what is trained.
        peers: the ranks.
        exchange: ``auto``, ``shared-memory`` or ``network``.
        checkpoint: to go on from.

    Raises:
        InputError: with another optimiser than AdamW.
        TrainingError, IntegrityError: if the checkpoint does not fit.
    """
    if setup.built.optimizer is not None:
        raise InputError(
            "train.strategy averaging averages the moments of AdamW: expected the optimizer AdamW, got another one. "
            "Use train.strategy synchronous or hogwild with it"
        )
    local = setup.local_exchange(timeout_s=peers.timeout_s)
    optimizer = SlicedAdamW(local, weight_decay=setup.settings.weight_decay)
    engine = setup.independent_engine(local, optimizer, rank=peers.rank, world_size=peers.world_size)
    shared, _one_copy = connect(setup.layout, peers, kind=exchange)
    strategy = Averaging(engine, optimizer, shared, peers=peers, frequency=setup.settings.averaging_frequency)
    if checkpoint is not None:
        strategy.restore(checkpoint)
        strategy.resume(checkpoint.progress().strategy)
    return strategy
