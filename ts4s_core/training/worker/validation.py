"""The validation loss, sharded in the same K parts: one number, the same on every rank and for any number of them."""

from __future__ import annotations

import numpy as np

from ts4s_core.settings import TrainSettings
from ts4s_core.training.batches.batch_plan import BatchPlan
from ts4s_core.training.batches.read_ahead import RowSource, planned_steps
from ts4s_core.training.step.numbers import LOSS_SUM, LossSum
from ts4s_core.training.strategies.strategy import Strategy

#: Rows of a part; no gradients are kept, so that more fit than in training.
ROWS_PER_PART = 16


def validation_loss(strategy: Strategy, rows: RowSource, settings: TrainSettings) -> float:
    """Mean loss over the validation side.

    Raises:
        WorkerLostError: if a peer does not keep up.
    """
    parts = settings.logical_shards
    plan = BatchPlan(rows.rows_per_group("validation"), ROWS_PER_PART * parts, parts, 0, shuffled=False)
    sums = np.zeros(strategy.parts_per_rank, LOSS_SUM)
    for planned in planned_steps(rows, "validation", plan, first=0, stop=plan.steps_in_epoch(0)):
        own = [planned.parts[part] for part in strategy.own_parts()]
        found = strategy.evaluate([planned.block.batch(part, pad_id=rows.pad_id) if len(part) else None for part in own])
        for name in LossSum._fields:
            sums[name] += found[name]
    return strategy.gather_sums(sums).mean
