"""Points of the fault matrix, chosen by hand: a worker, the driver while a checkpoint is written, the command, the store."""

from __future__ import annotations

import pytest
from fault_ground import Ground
from fault_points import Aim, Point
from fault_run import PointRun

POINTS = [
    Point(0, 0, "worker-kill", "processes", (Aim(17, "step"),), victim=1, workers=2, more=1),
    Point(0, 1, "driver-kill", "processes", (Aim(9, "checkpoint"),), victim=0, workers=2, more=1),
    Point(0, 2, "store-fails", "s3", (Aim(20, "checkpoint"),), victim=2, workers=2, more=2),
    # What else ends with a whole command, tests/end_to_end/test_stopping.py shows in every run of the tests.
    pytest.param(
        Point(0, 3, "flow-kill", "train-command", (Aim(31, "step"),), victim=0, workers=2, more=1), marks=pytest.mark.long
    ),
]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.kind)
def test_a_run_ends_as_the_undisturbed_one(
    ground: Ground, undisturbed: tuple[str, dict[tuple[int, int], str]], point: Point
) -> None:
    record = PointRun(ground, point, expected=undisturbed[0], ledger=undisturbed[1]).run()
    assert record.hit, record
    assert (record.left, record.problems) == ([], [])
    assert record.weights_sha256 == record.expected_sha256
