"""What is minimised: sums of item losses and the count of items, never a mean.

Legend: B rows, T tokens, C classes, V vocabulary.

A part's gradient is that of its *sum*; the one division by the global count comes after the reduction, so that parts of
uneven size weigh right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of
from ts4s_core.training.batches.batch import Batch


@dataclass(frozen=True)
class PartLoss:
    """A part's loss: ``total`` for backward (FP32 scalar), the same in float64, and the items it counts.

    ``predictions`` and how many of them are ``correct`` are for the metrics alone; 0 where there is no such thing.
    """

    total: torch.Tensor
    value: float
    items: float
    correct: float = 0.0
    predictions: float = 0.0


class Objective(Protocol):
    """Turns logits and a batch into a sum of losses."""

    def __call__(self, logits: Any, batch: Any) -> PartLoss:
        """The part's loss, of what the module gave for the part's inputs."""
        ...


class Classification:
    """Cross-entropy; with class weights the weighted sum, and the weights' sum as the count. Logits are (B, C)."""

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        self._weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def __call__(self, logits: torch.Tensor, batch: Batch) -> PartLoss:
        """See :class:`Objective`."""
        losses = F.cross_entropy(logits, batch.labels, weight=self._weights, reduction="none")
        items = float(len(batch.labels)) if self._weights is None else float(self._weights[batch.labels].double().sum())
        return _part_loss(losses, items, right=logits.detach().argmax(-1) == batch.labels)


class MultiLabel:
    """Binary cross-entropy for each class, averaged over classes. Logits and labels are (B, C)."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> PartLoss:
        """See :class:`Objective`."""
        losses = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        right = ((logits.detach() >= 0) == (batch.labels > 0.5)).all(dim=1)
        return _part_loss(losses.mean(dim=1), float(len(losses)), right=right)


class NextToken:
    """Cross-entropy of the token after each one, given those up to it; padding does not count. Logits are (B, T, V).

    Labels are (B, T), -100 where nothing is to be predicted; rows with labels of another kind are their own targets.
    """

    def __call__(self, logits: torch.Tensor, batch: Batch) -> PartLoss:
        """See :class:`Objective`."""
        targets = batch.labels
        if targets.shape != batch.input_ids.shape:
            targets = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)[:, 1:]
            logits = logits[:, :-1]
        flat = logits.flatten(0, 1)
        losses = F.cross_entropy(flat, targets.flatten(), ignore_index=-100, reduction="none")
        predictions = float((targets != -100).sum())
        return _part_loss(losses, predictions, right=flat.detach().argmax(-1) == targets.flatten(), predictions=predictions)


def objective_for(task: str, class_weights: Sequence[float] | None = None) -> Objective:
    """The objective of ``model.task``."""
    make = load(kind_of(task).objective)
    objective: Objective = make() if class_weights is None else make(class_weights)
    return objective


def _part_loss(losses: torch.Tensor, items: float, *, right: torch.Tensor, predictions: float | None = None) -> PartLoss:
    """The loss of a part; ``right`` says of each prediction (by default of each of its elements) whether it is."""
    correct, count = float(right.sum()), float(right.numel()) if predictions is None else predictions
    return PartLoss(losses.sum(), float(losses.detach().double().sum()), items, correct, count)
