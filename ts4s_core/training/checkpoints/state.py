"""What a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ts4s_core.models.weights import Array
from ts4s_core.training.checkpoints.training_progress import TrainingProgress

WEIGHTS_FILE, BEST_FILE = "weights.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A rank's copy of its state; weights on rank 0 alone.

    Attributes:
        moments: by tensor name ``exp_avg/<bucket>/<start>/<stop>``.
        weights: trainable weights by stored name.
        best: the best weights, where early stopping keeps them.
    """

    progress: TrainingProgress
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
