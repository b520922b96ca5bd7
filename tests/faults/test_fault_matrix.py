"""Seeded faults at any step of a run, each of which must end as the undisturbed run does and leave nothing behind.

``make test-faults POINTS=n SEED=s`` runs the points 0 .. n-1 of a seed that the result file does not have yet. Seeds below 100
draw faults of processes and machines, from 100 on faults of leases, clocks, users of the store and the network.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest
from fault_acts import may_mount
from fault_ground import Ground
from fault_network import may_make_spaces
from fault_points import Point, draw
from fault_results import Results
from fault_run import PointRun
from lease_processes import may_unshare

POINTS, SEED = int(os.environ.get("FAULT_POINTS") or 20), int(os.environ.get("FAULT_SEED") or 0)
RESULTS = Path(os.environ.get("FAULT_RESULTS") or Path(__file__).with_name("results.json"))
#: Indices of points, where some are to be run alone: ``0,7,14``.
ONLY = [int(index) for index in os.environ.get("FAULT_ONLY", "").split(",") if index]
TRIES = 3

Undisturbed = tuple[str, dict[tuple[int, int], str]]


@pytest.mark.faults
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("point", [draw(SEED, index) for index in ONLY or range(POINTS)], ids=lambda point: point.name)
def test_a_run_ends_as_the_undisturbed_one(ground: Ground, undisturbed: Undisturbed, point: Point) -> None:
    results = Results(RESULTS)
    if results.has(point):
        pytest.skip("counted before")
    if point.kind == "disk-full" and not may_mount():
        pytest.skip("needs the right to mount a small disk")
    if point.kind == "second-namespace" and not may_unshare():
        pytest.skip("needs unshare and the right to make a pid namespace")
    if point.kind == "driver-cut" and not may_make_spaces():
        pytest.skip("needs root and ip: makes a network namespace")
    for _ in range(TRIES):
        record = PointRun(ground, point, expected=undisturbed[0], ledger=undisturbed[1]).run()
        results.add(record)
        assert record.well, record
        if record.hit:
            return
        ground.forget(point)
    pytest.skip(f"the victim was not hit in {TRIES} tries: {record}")


def test_every_kept_record_is_of_the_point_that_its_seed_draws() -> None:
    for record in Results(RESULTS).records():
        point = draw(record["seed"], record["index"])
        drawn = (point.kind, point.place, point.workers, [asdict(aim) for aim in point.aims])
        assert drawn == (record["kind"], record["place"], record["workers"], record["aimed"])
