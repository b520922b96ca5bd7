from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.errors import DataError
from ts4s_core.training.batches.batch_plan import GROUPS_PER_WINDOW, BatchPlan, balanced_order, cut_evenly


def log_normal(rows: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.clip(np.rint(random.lognormal(np.log(120), 0.6, rows)), 8, 512).astype(np.int64)


def epoch_of(plan: BatchPlan, lengths_of_group: list[np.ndarray], epoch: int) -> list[list[list[tuple[int, int]]]]:
    """Steps of an epoch as parts of (row group, row)."""
    steps = []
    for window in plan.windows(epoch):
        places = [(group, row) for group in window.row_groups for row in range(plan.rows_per_group[group])]
        lengths = np.concatenate([lengths_of_group[group] for group in window.row_groups])
        composed = plan.compose(lengths, epoch=epoch, window=window.index)
        assert len(composed) == window.steps
        steps += [[[places[row] for row in part] for part in parts] for parts in composed]
    return steps


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=150),
    batch_size=st.integers(1, 40),
    parts=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 3),
    shuffled=st.booleans(),
)
def test_every_row_once_an_epoch_in_a_known_number_of_steps(groups, batch_size, parts, seed, shuffled):
    plan = BatchPlan(tuple(groups), batch_size, parts, seed, shuffled)
    lengths = [np.random.default_rng([seed, group]).integers(1, 60, rows) for group, rows in enumerate(groups)]
    for epoch in (0, 1):
        steps = epoch_of(plan, lengths, epoch)
        assert len(steps) == plan.steps_in_epoch(epoch)
        assert all(len(step) == parts for step in steps)
        rows = [place for step in steps for part in step for place in part]
        assert sorted(rows) == [(group, row) for group, count in enumerate(groups) for row in range(count)]
        assert all(1 <= sum(map(len, step)) <= batch_size for step in steps)
        assert steps == epoch_of(BatchPlan(tuple(groups), batch_size, parts, seed, shuffled), lengths, epoch)
    assert plan.total_steps(2) == plan.steps_in_epoch(0) + plan.steps_in_epoch(1)
    assert plan.total_steps(2, 3) == min(3, plan.total_steps(2))


def test_every_epoch_composes_batches_and_parts_anew():
    lengths = log_normal(512)
    plan = BatchPlan((256, 256), 16, 4, 0)
    epochs = [plan.compose(lengths, epoch=epoch, window=0) for epoch in range(3)]
    parts = [{tuple(sorted(part.tolist())) for step in epoch for part in step} for epoch in epochs]
    batches = [{tuple(sorted(np.concatenate(step).tolist())) for step in epoch} for epoch in epochs]
    for one, next_one in ((0, 1), (1, 2)):
        assert len(parts[one] & parts[next_one]) <= 0.35 * len(parts[one])
        assert len(batches[one] & batches[next_one]) <= 0.1 * len(batches[one])
    other = BatchPlan((256, 256), 16, 4, 1).compose(lengths, epoch=0, window=0)
    assert {tuple(sorted(part.tolist())) for step in other for part in step} != parts[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("parts", "largest"), [(2, 1.05), (4, 1.05), (8, 1.065)])
def test_parts_are_even_and_padding_is_little_on_ordinary_lengths(seed, parts, largest):
    lengths = log_normal(512, seed)
    plan = BatchPlan((256, 256), 16, parts, seed)
    ratios, real, padded = [], 0, 0
    for epoch in range(4):
        for step in plan.compose(lengths, epoch=epoch, window=0):
            costs = np.array([len(part) * lengths[part].max() if len(part) else 0 for part in step])
            ratios.append(costs.max() / costs.mean())
            real += sum(int(lengths[part].sum()) for part in step)
            padded += int(costs.sum())
    assert np.mean(ratios) <= largest
    assert 1 - real / padded <= 0.03


def test_workers_of_any_number_get_about_the_same_tokens():
    lengths = log_normal(512)
    plan = BatchPlan((256, 256), 16, 8, 0)
    steps = plan.compose(lengths, epoch=0, window=0)
    costs = np.array([[len(part) * lengths[part].max() for part in step] for step in steps])
    for workers in (2, 4):
        shares = costs.reshape(len(steps), workers, -1).sum(axis=2)
        assert np.mean(shares.max(axis=1) / shares.mean(axis=1)) <= 1.05


def test_a_window_bounds_what_is_held():
    plan = BatchPlan((256,) * 1_000, 32, 4, 0)
    assert max(len(window.row_groups) for window in plan.windows(0)) == GROUPS_PER_WINDOW
    assert plan.windows(0) != plan.windows(1)


def test_small_cases():
    assert cut_evenly([5, 5, 5, 5], 2) == [(2, 4), (0, 2)]
    assert cut_evenly([1, 1, 1, 1, 4], 2) == [(4, 5), (0, 4)]
    assert cut_evenly([7], 4) == [(0, 1), (0, 0), (0, 0), (0, 0)]
    assert balanced_order([9, 7, 3, 1]) == [0, 3, 1, 2]
    with pytest.raises(DataError, match="no rows"):
        BatchPlan((0,), 4, 2, 0)
