"""The learning rate of each step."""

from __future__ import annotations

from typing import Protocol


class Rate(Protocol):
    """Gives the learning rate of each step."""

    def __call__(self, step: int, *, total_steps: int, highest: float, warmup_fraction: float) -> float:
        """The rate of a step, counted from 0."""
        ...


def constant(step: int, *, total_steps: int, highest: float, warmup_fraction: float) -> float:
    """The highest rate in every step."""
    return highest


def learning_rate(step: int, *, total_steps: int, highest: float, warmup_fraction: float) -> float:
    """Linear warm-up, then linear decay towards 0 after the last step; no step has rate 0.

    Args:
        step: number of the step, from 0.
        total_steps: steps of the whole run.
        highest: rate at the end of the warm-up.
        warmup_fraction: share of the steps in which the rate rises.
    """
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    return highest * (total_steps - step) / max(1, total_steps - warmup)
