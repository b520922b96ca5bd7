"""Parts of at least two rows, for modules that normalise over a part."""

from __future__ import annotations

import numpy as np
import pytest

from ts4s_core.training.batches.batch_plan import BatchPlan


@pytest.mark.parametrize("rows", [64, 65, 66, 67, 69, 71, 5, 3, 2])
def test_no_part_has_a_single_row(rows: int) -> None:
    plan = BatchPlan((rows,), 32, 4, seed=1, least_rows=2)
    steps = plan.compose(np.ones(rows, np.int64), epoch=0, window=0)
    assert len(steps) == plan.steps_in_epoch(0)
    assert sorted(np.concatenate([part for step in steps for part in step]).tolist()) == list(range(rows))
    assert min(len(part) for step in steps for part in step if len(part)) >= 2
    assert all(len(step) == 4 for step in steps)


def test_one_row_in_all_stays_one() -> None:
    plan = BatchPlan((1,), 32, 4, seed=1, least_rows=2)
    assert [len(part) for part in plan.compose(np.ones(1, np.int64), epoch=0, window=0)[0]].count(1) == 1
