"""What a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ts4s_core.models.weights import Array

WEIGHTS_FILE, BEST_FILE, STATE_FILE = "weights.safetensors", "best.safetensors", "state.json"


@dataclass
class Progressed:
    """Where a run stands after ``step`` steps, beside weights and moments.

    Attributes:
        step: steps that are done.
        best_loss: best validation loss so far.
        best_step: when it was reached.
        worse: validations since then.
        metrics: a row a step.
        strategy: what the strategy says of the run, as of its last join.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    strategy: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Progressed:
        """A copy that training does not change."""
        return Progressed(self.step, self.best_loss, self.best_step, self.worse, list(self.metrics), self.strategy)


@dataclass(frozen=True)
class Snapshot:
    """A rank's copy of its state; weights on rank 0 alone.

    Attributes:
        moments: by tensor name ``exp_avg/<bucket>/<start>/<stop>``.
        weights: trainable weights by stored name.
        best: the best weights, where early stopping keeps them.
    """

    progressed: Progressed
    moments: dict[str, torch.Tensor]
    weights: dict[str, Array] | None
    best: dict[str, Array] | None


def named_moments(slices: list[tuple[int, int]], moments: Sequence[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """A copy of a rank's moments, named by the elements that they are."""
    named = {}
    for bucket, ((start, stop), pair) in enumerate(zip(slices, moments, strict=True)):
        for kind, tensor in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
            if stop > start:
                named[f"{kind}/{bucket}/{start}/{stop}"] = tensor.clone()
    return named
