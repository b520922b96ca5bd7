"""One training step: parts, tree, exchange, clip, optimiser.

Bits of a step depend on (weights, moments, rows, seed, step) alone. Randomness is drawn anew for each part from
(seed, step, part): from this project's dropout modules and, for modules that use PyTorch's own generator, from its seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import NonFiniteError
from ts4s_core.training.batches.batch import PartBatch
from ts4s_core.training.exchange.exchange import GATHER_MARGIN, Exchange, GlobalSquares
from ts4s_core.training.optimizers.adamw import Optimizer
from ts4s_core.training.step.gradient_tree import GradientTree
from ts4s_core.training.step.numbers import LOSS_SUM, LossSum, PartNumbers, RankNumbers, Records, floats, step_record, totals
from ts4s_core.training.step.objectives import Objective
from ts4s_core.training.step.row_gradients import RowGradients
from ts4s_core.training.step.running_statistics import RunningStatistics


class SeedDropout(Protocol):
    """Seeds a model's own dropout modules by (seed, step, part)."""

    def __call__(self, model: nn.Module, seed: int, step: int, *, part: int) -> object:
        """Seed them for the next forward."""
        ...


class Forward(Protocol):
    """Computes a module's outputs in another way than by calling it, such as compiled."""

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """What ``module(*inputs)`` gives."""
        ...


class GradientNotFiniteError(Exception):
    """A loss or the gradient of a step is not finite. Raised on every rank; ``parts`` is empty if only the sum is not finite."""

    def __init__(self, step: int, parts: list[int]) -> None:
        super().__init__(f"step {step}, parts {parts}")
        self.step = step
        self.parts = parts


@dataclass(frozen=True)
class StepStats:
    """What a step did, the same on every rank.

    Attributes:
        loss: mean over all items.
        grad_norm: of the mean gradient, before clipping.
        tokens: real tokens.
        padded_tokens: tokens with padding.
        flag: whether any rank raised its flag.
        memory_mib: of the largest rank.
        items: what the loss is the mean over.
        staleness: updates that a gradient came too late for, where ranks do not wait for each other.
        correct: predictions that were right, as far as the objective knows such a thing.
        predictions: number of predictions.
        memories_mib: of each rank.
    """

    loss: float
    grad_norm: float
    tokens: int
    padded_tokens: int
    flag: bool
    memory_mib: float
    items: float
    staleness: float | None = None
    correct: float = 0.0
    predictions: float = 0.0
    memories_mib: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sums:
    """Sums over the parts of a batch in part order."""

    loss: float
    items: float

    @classmethod
    def of(cls, parts: Records) -> Sums:
        """The sums of every part's :class:`LossSum`, (K,)."""
        return cls(float(np.sum(parts["loss"])), float(np.sum(parts["items"])))

    @property
    def mean(self) -> float:
        """Loss an item."""
        return self.loss / self.items if self.items else 0.0


class Engine:
    """Takes steps with a model whose trainable parameters lie in an exchange's buckets."""

    def __init__(
        self,
        model: nn.Module,
        parameters: dict[str, nn.Parameter],
        exchange: Exchange,
        optimizer: Optimizer,
        *,
        objective: Objective,
        seed: int,
        parts: int,
        max_grad_norm: float,
        seed_dropout: SeedDropout,
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.statistics = RunningStatistics(model)
        self._forward = model if forward is None else forward  # a compiled module has no truth value
        self.exchange = exchange
        self.optimizer = optimizer
        self.parts = parts
        self.parts_per_rank = parts // exchange.world_size
        self._parameters = parameters
        self._objective = objective
        self._seed = seed
        self._max_grad_norm = max_grad_norm
        self._seed_dropout = seed_dropout
        # Its hooks look tables up in the module itself.
        rows = RowGradients(model, parameters) if forward is None else None
        self._tree = GradientTree(parameters, exchange, parts=self.parts_per_rank, rows=rows)
        self._squares = GlobalSquares(exchange.layout, exchange.world_size)
        # torch.manual_seed notes a traceback for each kind of device that is not there: a tenth of a small network's step.
        self._seed_torch = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
        self._record = step_record(parts=self.parts_per_rank, squares=self._squares.width)
        if self._record.itemsize // np.dtype(np.float64).itemsize - self._squares.width > GATHER_MARGIN:
            raise AssertionError("the gather's margin holds every part's numbers")

    def own_parts(self) -> range:
        """The numbers of the parts that this rank computes."""
        first = self.exchange.rank * self.parts_per_rank
        return range(first, first + self.parts_per_rank)

    def step(self, batches: Sequence[PartBatch | None], *, step: int, rate: float, flag: bool, memory_mib: float) -> StepStats:
        """Take one step.

        Args:
            batches: the rank's own parts, None for one without rows.
            step: its number, from 0.
            rate: learning rate.
            flag: this rank's flag; every rank learns whether any rank raised its own.
            memory_mib: this rank's memory, for the metrics.

        Raises:
            GradientNotFiniteError: on every rank, before any weight is changed.
            WorkerLostError: if a peer does not keep up.
        """
        self.model.train()
        self.statistics.begin()
        own = np.zeros(1, self._record)
        own["rank"] = RankNumbers(float(flag), memory_mib)
        for place, (part, batch) in enumerate(zip(self.own_parts(), batches, strict=True)):
            self._tree.begin(place)
            if batch is not None:
                own["parts"][0, place] = self._backward(batch, step=step, part=part)
            self.statistics.end_part(computed=batch is not None)
            self._tree.end()
        self.exchange.collect()
        own["squares"][0, : len(self.exchange.squares)] = self.exchange.squares
        everybody = self.exchange.gather(floats(own)).view(self._record)[:, 0]
        stats, divisor = self._judge(everybody, step=step)
        self.optimizer.step(step + 1, learning_rate=rate, divisor=divisor)
        self.statistics.end(self.exchange)
        self.exchange.publish()
        return stats

    def evaluate(self, batches: Sequence[PartBatch | None]) -> Records:
        """A :class:`LossSum` of each of the rank's own parts, (P,), without dropout or gradients."""
        self.model.eval()
        sums = np.zeros(self.parts_per_rank, LOSS_SUM)
        with torch.no_grad():
            for place, batch in enumerate(batches):
                if batch is not None:
                    found = self._objective(self._forward(*batch.inputs), batch)
                    sums[place] = LossSum(found.value, found.items)
        return sums

    def gather_sums(self, sums: Records) -> Sums:
        """All ranks' :meth:`evaluate` sums, added in part order."""
        return Sums.of(self.exchange.gather(floats(sums)).reshape(-1).view(LOSS_SUM))

    def find_non_finite_parts(self, batches: Sequence[PartBatch | None], *, step: int) -> list[int]:
        """The rank's own parts whose loss or gradient is not finite: each is computed once more, by itself."""
        self._tree.close()
        found = []
        for part, batch in zip(self.own_parts(), batches, strict=True):
            if batch is None:
                continue
            value = self._backward(batch, step=step, part=part).loss
            finite = all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in self._parameters.values())
            if not (math.isfinite(value) and finite):
                found.append(part)
            for parameter in self._parameters.values():
                parameter.grad = None
        return found

    def close(self) -> None:
        """Release the model and the connections to the peers."""
        self._tree.close()
        self.exchange.close()

    def _backward(self, batch: PartBatch, *, step: int, part: int) -> PartNumbers:
        self._seed_torch(_torch_seed(self._seed, step, part))
        self._seed_dropout(self.model, self._seed, step, part=part)
        loss = self._objective(self._forward(*batch.inputs), batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        return PartNumbers(loss.value, loss.items, batch.tokens, batch.padded_tokens, loss.correct, loss.predictions)

    def _judge(self, everybody: Records, *, step: int) -> tuple[StepStats, float]:
        """The step's figures from every rank's record, and what its gradient is to be divided by."""
        parts, ranks = everybody["parts"].reshape(self.parts), everybody["rank"]
        bad = np.flatnonzero(~np.isfinite(parts["loss"])).tolist()
        norm = self._squares.norm(everybody["squares"])
        if bad or not math.isfinite(norm):
            raise GradientNotFiniteError(step, bad)
        total = PartNumbers(**totals(parts))
        items = total.items or 1.0  # a batch whose every label is masked teaches nothing
        norm /= items
        clip = min(1.0, self._max_grad_norm / (norm + 1e-6)) if self._max_grad_norm else 1.0
        stats = StepStats(
            loss=total.loss / items,
            grad_norm=norm,
            tokens=int(total.tokens),
            padded_tokens=int(total.padded_tokens),
            flag=bool(ranks["flag"].any()),
            memory_mib=float(ranks["memory_mib"].max()),
            items=items,
            correct=total.correct,
            predictions=total.predictions,
            memories_mib=tuple(ranks["memory_mib"].tolist()),
        )
        return stats, items / clip


def non_finite(step: int, ids: dict[int, list[str]]) -> NonFiniteError:
    """The error that names the parts of a step, and the sample ids in them."""
    if not ids:
        return NonFiniteError(
            f"Gradient of step {step} is not finite, though that of each part is: expected a finite sum. "
            "No weight was changed. Lower train.learning_rate or train.batch_size"
        )
    named = "; ".join(f"part {part} (samples {', '.join(samples)})" for part, samples in sorted(ids.items()))
    return NonFiniteError(
        f"Loss or gradient of step {step} is not finite in {named}. No weight was changed in that step. "
        "Look at those samples, or lower train.learning_rate"
    )


def _torch_seed(seed: int, step: int, part: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{part}".encode(), digest_size=8, person=b"ts4s-rng").digest()
    return int.from_bytes(digest, "little") >> 1
