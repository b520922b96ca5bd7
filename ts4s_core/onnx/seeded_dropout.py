"""Dropout whose bits depend on (seed, step, part, site) alone, and are cheap to draw.

``torch``'s own generator would tie the bits to the order in which a process draws them, and so to the number of workers.
Here every site of a model has a NumPy generator of its own, set anew for each part of a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import TrainingError

LEVELS = 1 << 16
_LANES = 4  # 16-bit lanes in one 64-bit draw


class SeededDropout(nn.Module):
    """Sets elements to zero with probability ``p`` and scales the others by ``1 / (1 - p)``.

    ``p`` is rounded to a multiple of 1/65536, and the scale is that of the rounded value: the mean stays exact.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._threshold = min(round(p * LEVELS), LEVELS - 1)
        self._scale = LEVELS / (LEVELS - self._threshold)
        self._bits: np.random.SFC64 | None = None

    def extra_repr(self) -> str:
        """``p=0.1``."""
        return f"p={self.p}"

    def reseed(self, entropy: tuple[int, ...]) -> None:
        """Begin the sequence that belongs to these numbers."""
        self._bits = np.random.SFC64(np.random.SeedSequence(entropy))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``data`` itself in eval mode.

        Raises:
            TrainingError: in train mode, before :func:`seed_dropout`.
        """
        if not self.training or not self._threshold:
            return data
        if self._bits is None:
            raise TrainingError(
                "Dropout in train mode: expected a seed, got none. Call seed_dropout(model, ...) before each forward"
            )
        count = data.numel()
        lanes = self._bits.random_raw(-(-count // _LANES)).view(np.uint16)[:count]
        kept = torch.from_numpy(lanes >= self._threshold).view(data.shape).to(data.device)
        return data * kept.to(data.dtype).mul_(self._scale)


def dropout_sites(model: nn.Module) -> Iterator[SeededDropout]:
    """The dropout modules of a model in a fixed order."""
    return (module for module in model.modules() if isinstance(module, SeededDropout))


def seed_dropout(model: nn.Module, seed: int, step: int, *, part: int) -> None:
    """Fix the bits that every dropout of the model draws next.

    Args:
        model: any module; sites are numbered in the order of ``model.modules()``.
        seed: ``train.seed``.
        step: the step's number.
        part: the logical shard's number within the step.
    """
    for site, module in enumerate(dropout_sites(model)):
        module.reseed((seed, step, part, site))
