"""Records of numbers are added as before there were names for their columns: record by record."""

from __future__ import annotations

import numpy as np

from ts4s_core.training.step.numbers import PART, PartNumbers, RankNumbers, floats, step_record, totals


def test_totals_are_added_in_the_order_of_the_records():
    rows = np.random.default_rng(0).normal(0, 1e3, (999, len(PartNumbers._fields)))
    sums = np.zeros(rows.shape[1])
    for row in rows:
        sums += row
    assert list(totals(rows.reshape(-1).view(PART)).values()) == sums.tolist()
    assert (sums != rows.T.copy().sum(axis=1)).any()  # a column alone gives other bits


def test_a_ranks_record_is_one_vector_of_numbers():
    record = step_record(parts=2, squares=3)
    own = np.zeros(1, record)
    own["rank"] = RankNumbers(1.0, 256.0)
    own["parts"][0, 1] = PartNumbers(1, 2, 3, 4, 5, 6)
    own["squares"][0, :2] = 7, 8
    assert floats(own).tolist() == [1, 256, *[0] * 6, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    both = np.stack([floats(own), floats(own)]).view(record)[:, 0]
    assert both["rank"]["flag"].tolist() == [1, 1]
    assert both["parts"].reshape(4)["tokens"].tolist() == [0, 3, 0, 3]


def test_a_step_without_blocks_has_no_squares():
    own = np.zeros(1, step_record(parts=1, squares=0))
    assert floats(own).shape == (8,)
