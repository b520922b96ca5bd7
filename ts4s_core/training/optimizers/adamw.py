"""AdamW on a rank's own slices, in the same bits for every number of workers.

PyTorch's fused kernel works in vector registers and finishes what is left over one element at a time, with other
rounding; so it is called on a fixed grid of chunks, and slices are whole blocks: no call ever has a remainder. Within a
call its threads cut at multiples of 64 elements, so the thread count does not change bits either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ts4s_core.torch_internals import fused_adamw
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.checkpoints.state import named_moments
from ts4s_core.training.exchange.buckets import chunks
from ts4s_core.training.exchange.exchange import Exchange

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Optimizer(Protocol):
    """What an engine updates parameters with."""

    @property
    def moments(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """For each bucket the moments of this rank's slice."""
        ...

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """See :meth:`SlicedAdamW.step`."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the state for a checkpoint, by ``kind/bucket/start/stop``."""
        ...


class SlicedOptimizer(Optimizer, Protocol):
    """An optimiser of a rank's slices whose state checkpoints hold.

    Implementations: :class:`SlicedAdamW` and :class:`ts4s_core.training.optimizers.any_torch.SlicedTorch`.
    """

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint's state, whichever ranks wrote it."""
        ...


class SlicedAdamW:
    """Fused AdamW over the rank's slices of the exchange's buckets.

    Attributes:
        moments: for each bucket (exp_avg, exp_avg_sq) of the own slice.
    """

    def __init__(self, exchange: Exchange, *, weight_decay: float) -> None:
        self._exchange = exchange
        self._decays = {True: weight_decay, False: 0.0}
        self._calls: dict[bool, tuple[list[torch.Tensor], ...]] = {True: ([], [], [], []), False: ([], [], [], [])}
        self.moments: list[tuple[torch.Tensor, torch.Tensor]] = []
        for bucket, (start, stop) in enumerate(exchange.slices):
            average, square = torch.zeros(stop - start), torch.zeros(stop - start)
            self.moments.append((average, square))
            parameters, gradients, averages, squares = self._calls[exchange.layout.decays[bucket]]
            for begin, end in chunks(start, stop):
                parameters.append(exchange.parameters[bucket][begin:end])
                gradients.append(exchange.gradients[bucket][begin:end])
                averages.append(average[begin - start : end - start])
                squares.append(square[begin - start : end - start])

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the moments of the own slices."""
        return named_moments(self._exchange.slices, self.moments)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the moments of the own slices out of a checkpoint."""
        checkpoint.restore_moments(self._exchange.layout, self._exchange.slices, self.moments)

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """Update the own slices of the parameters.

        Args:
            number: the step's number, from 1.
            learning_rate: of this step.
            divisor: what the summed gradients are divided by (items, and the clip factor).
        """
        count, scale = torch.tensor(float(number)), torch.tensor(divisor, dtype=torch.float32)
        for decays, (parameters, gradients, averages, squares) in self._calls.items():
            if not parameters:
                continue
            fused_adamw(
                parameters,
                gradients,
                averages,
                squares,
                [],
                [count] * len(parameters),
                lr=learning_rate,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=self._decays[decays],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=None,
            )
