"""Checkpoints are ordered by attempt and step: hosts' clocks, whose time is in a version's name, differ by minutes."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from ts4s_core.artifacts import store as stores
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.training.checkpoints.listing import checkpoints, last_generation, place_of, prune
from ts4s_core.training.job import TrainJob

KEY = "1a2b3c4d" + "0" * 56
OTHER = "1a2b3c4d" + "1" * 56


def job(generation: int, output: str = "trained/demo/1") -> TrainJob:
    return TrainJob(
        name="demo",
        key=KEY,
        dataset="",
        model="",
        output=output,
        task="classification",
        train={},
        storage={},
        generation=generation,
    )


class Clock:
    """The clock of whichever host writes, in place of the module that the store asks."""

    UTC, timedelta = datetime.UTC, datetime.timedelta

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.datetime = self

    def now(self, zone: datetime.tzinfo) -> datetime.datetime:
        return datetime.datetime.now(zone) + datetime.timedelta(seconds=self.ahead_s)


@pytest.fixture
def sealed(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Seals a checkpoint by a host whose clock is so many seconds ahead."""
    clock = Clock()
    monkeypatch.setattr(stores, "datetime", clock)

    def seal(settings: dict[str, Any], *, ahead_s: float = 0.0, key: str = KEY) -> ArtifactRef:
        clock.ahead_s = ahead_s
        with store.begin("checkpoint", "demo", key, settings={"train": {}, **settings}, upstream={}) as writer:
            writer.add_json("state.json", settings)
            writer.seal()
        return writer.ref

    return seal


def test_the_newest_are_those_of_the_last_attempt_and_step(store: ArtifactStore, sealed: Any) -> None:
    """Five checkpoints; the first attempt's rank 0 was on a host five minutes ahead. The newest two stay."""
    first = [sealed(place_of(job(1), step), ahead_s=300.0) for step in (6, 12, 18)]
    second = [sealed(place_of(job(2), step), ahead_s=-300.0) for step in (24, 30)]
    assert max(second) < min(first)
    assert checkpoints(store, "demo", KEY) == [second[1], second[0], first[2], first[1], first[0]]
    assert last_generation(store, "demo", KEY) == 2
    prune(store, "demo", KEY, keep=2)
    assert checkpoints(store, "demo", KEY) == [second[1], second[0]]


def test_an_attempt_that_began_anew_is_later_than_one_that_had_come_further(store: ArtifactStore, sealed: Any) -> None:
    before = [sealed(place_of(job(1, "trained/demo/1"), step)) for step in (54, 60)]
    anew = [sealed(place_of(job(2, "trained/demo/2"), step), ahead_s=-300.0) for step in (6, 12)]
    assert checkpoints(store, "demo", KEY) == [*reversed(anew), *reversed(before)]
    # With --reuse false a run goes on from its own alone.
    assert checkpoints(store, "demo", KEY, of="trained/demo/2") == list(reversed(anew))
    assert checkpoints(store, "demo", KEY, of="trained/demo/3") == []
    prune(store, "demo", KEY, keep=2)
    assert checkpoints(store, "demo", KEY) == list(reversed(anew))


def test_checkpoints_of_an_earlier_ts4s_come_by_their_step_and_before_all_others(store: ArtifactStore, sealed: Any) -> None:
    old = [sealed({"step": step}, ahead_s=ahead_s) for step, ahead_s in ((30, 0.0), (6, 600.0))]
    assert checkpoints(store, "demo", KEY) == old
    assert last_generation(store, "demo", KEY) == 0
    new = sealed(place_of(job(1), 36), ahead_s=-600.0)
    foreign = sealed(place_of(job(9), 60), key=OTHER)
    assert checkpoints(store, "demo", KEY) == [new, *old]
    assert checkpoints(store, "demo", OTHER) == [foreign]
