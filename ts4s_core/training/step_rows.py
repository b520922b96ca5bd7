"""The row that each training step adds to ``metrics.csv``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """What one step did.

    Attributes:
        step: its number, from 1.
        epoch: counted from 0.
        milliseconds: from the end of the step before.
        loss: mean over the step's items.
        grad_norm: of the mean gradient, before clipping.
        tokens: real tokens.
        padded_tokens: tokens with padding.
        memory: MiB of the largest worker.
        memory_per_worker: MiB of each worker, joined by semicolons.
        accuracy: share of the predictions that were right; None where the objective counts no predictions.
        predictions: their number.
        validation_loss: None, unless the loss was measured on the validation side after this step.
        staleness: updates by others between reading the weights and applying the gradient, on average; None where workers wait
            for each other.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float | None = None
    validation_loss: float | None = None
    learning_rate: float
    grad_norm: float
    predictions: int = 0
    tokens: int
    padded_tokens: int
    tokens_per_s: float
    milliseconds: float
    memory: float
    memory_per_worker: str = ""
    staleness: float | None = None
