"""One point from its beginning to its record."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from fault_ground import NOTICED_WITHIN_S, Ground, Refusals, fill, kill, marked, read_ledger
from fault_leftovers import GONE_WITHIN_S, Before, leftovers
from fault_points import STEPS, Point, draw
from fault_watch import Watch

from ts4s_core.artifacts.keys import code_version
from ts4s_core.errors import Ts4sError

COMMANDS = 3
#: A noticed silence, the end of the attempt, and the next one's start on a busy machine.
SLACK_S = 15.0
#: Requests that go wrong, and how: within one call's own retries, beyond them, and longer than a write is tried again.
REFUSALS = (3, 30, 150)
ACTIONS = ("cut before", "cut body", "cut answer", "half answer", "500", "SlowDown")
NO_SPACE = "No space left"


@dataclass(frozen=True)
class Record:
    """What a point came to.

    Attributes:
        hit: whether every victim was hit while the run went on, and the run felt it.
        steps_hit: step that had begun when each fault was done.
        ended: ``by itself``, or ``same command again``.
        left: what was left behind.
        problems: anything else that is not as it should be.
    """

    seed: int
    index: int
    kind: str
    place: str
    workers: int
    aimed: list[dict[str, Any]]
    steps_hit: list[int]
    victims: int
    hit: bool
    ended: str
    restarts: int
    workers_at_end: int
    weights_sha256: str
    expected_sha256: str
    left: list[str]
    problems: list[str]
    seconds: float
    code: str
    at: str

    @property
    def well(self) -> bool:
        """Whether the run ended as it must."""
        return self.weights_sha256 == self.expected_sha256 and not self.left and not self.problems

    @property
    def counted(self) -> bool:
        """Whether the point counts."""
        return self.hit and self.well


class Results:
    """The records in one JSON file, which is whole after every point; several runs of the matrix may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        return json.loads(self._path.read_text(encoding="utf-8"))["points"] if self._path.exists() else []

    def has(self, point: Point) -> bool:
        """Whether a point was counted already."""
        return any((found["seed"], found["index"]) == (point.seed, point.index) and found["counted"] for found in self.records())

    def add(self, record: Record) -> None:
        """Append a record."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._write([*self.records(), {**asdict(record), "counted": record.counted}])
        finally:
            os.close(folder)

    def _write(self, records: list[dict[str, Any]]) -> None:
        counted = [found for found in records if found["counted"]]
        kinds = sorted({found["kind"] for found in counted})
        summary = {
            "counted": len(counted),
            "hashes": sorted({found["weights_sha256"] for found in counted}),
            "by_kind": {kind: sum(found["kind"] == kind for found in counted) for kind in kinds},
            "not_as_they_should_be": sum(found["hit"] and not found["counted"] for found in records),
        }
        text = json.dumps({"summary": summary, "points": records}, indent=1, ensure_ascii=False) + "\n"
        new = self._path.with_name(f".{self._path.name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, self._path)


class PointRun:
    """Runs a point on a ground."""

    def __init__(self, ground: Ground, point: Point, *, expected: str, ledger: dict[tuple[int, int], str]) -> None:
        self._ground = ground
        self._point = point
        self._expected = expected
        self._expected_ledger = ledger
        self._ledger = ground.folder / "ledgers" / point.name
        self._ledger.mkdir(parents=True, exist_ok=True)
        self._ballast: Path | None = None
        self._no_space = 0
        self._refusals = Refusals(0, "pass")
        self._problems: list[str] = []
        self._struck_at = 0.0

    def run(self) -> Record:
        """Run it and check everything."""
        ground, point = self._ground, self._point
        ground.ready(point.place)
        ground.log.lines.clear()
        before = Before.now(ground.temporary)
        settings = ground.settings(point, self._ledger)
        versions = lambda kind: ground.store_folder(point.place) / kind / point.name  # noqa: E731
        errors: list[str] = []
        facts: dict[str, Any] = {}
        began = time.monotonic()
        if point.kind == "disk-full":
            ground.log.on_line.append(self._free_disk)
        workers = 0 if point.place == "retrain-command" else point.workers
        with Watch(self._ledger, versions, point.aims, workers=workers or 2, strike=self._strike) as watch:
            while not facts and len(errors) < COMMANDS:
                try:
                    facts = ground.train(point, settings)
                except Ts4sError as exc:
                    errors.append(f"{type(exc).__name__}: {exc}"[:300])
                    self._after_failure()
        ground.log.on_line.clear()
        seconds = time.monotonic() - began
        if watch.failure is not None:
            raise watch.failure
        self._check(facts, errors)
        felt = bool(errors) or int(facts.get("restarts", 0)) > 0 or self._no_space > 0 or self._refusals.done > 0
        left = leftovers(
            before,
            ground.mark,
            kept=ground.kept(),
            stores=[ground.store_folder(point.place)],
            names=[point.name],
            temporary=ground.temporary,
            ledger=self._ledger,
        )
        return Record(
            seed=point.seed,
            index=point.index,
            kind=point.kind,
            place=point.place,
            workers=point.workers,
            aimed=[asdict(aim) for aim in point.aims],
            steps_hit=[struck.step for struck in watch.struck],
            victims=sum(len(struck.victims) for struck in watch.struck),
            hit=bool(watch.struck) and felt,
            ended="same command again" if errors else "by itself",
            restarts=int(facts.get("restarts", 0)),
            workers_at_end=int(facts.get("workers", 0)),
            weights_sha256=str(facts.get("weights_sha256")),
            expected_sha256=self._expected,
            left=left,
            problems=[*self._problems, *([] if facts else errors)],
            seconds=round(seconds, 1),
            code=code_version(),
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _check(self, facts: dict[str, Any], errors: list[str]) -> None:
        point = self._point
        if point.kind == "executor-loss" and facts.get("workers") != 1 and not errors:
            self._problems.append(f"went on with {facts.get('workers')} workers after one of two executors was lost")
        try:
            found = read_ledger(self._ledger)
        except AssertionError as exc:
            self._problems.append(str(exc))
            return
        wrong = [at for at, samples in found.items() if self._expected_ledger.get(at) != samples]
        if wrong or max(step for step, _part in found) != STEPS:
            self._problems.append(f"ledger differs from the undisturbed run's at {wrong[:3]}")

    def _strike(self, workers: dict[int, int]) -> list[int]:
        self._struck_at = time.monotonic()
        return _STRIKES[self._point.kind](self, list(workers.values()))

    def _one_worker(self, workers: list[int]) -> list[int]:
        return kill([workers[self._point.victim % len(workers)]])

    def _all_workers(self, workers: list[int]) -> list[int]:
        return kill(workers)

    def _stop_worker(self, workers: list[int]) -> list[int]:
        hit = kill([workers[self._point.victim % len(workers)]], signal.SIGSTOP, wanted=("T",))
        self._ground.log.on_line.append(self._noticed)
        return hit

    def _noticed(self, line: str) -> None:
        if "was silent for" in line or "waited" in line:
            self._ground.log.on_line.remove(self._noticed)
            took = time.monotonic() - self._struck_at
            if took > NOTICED_WITHIN_S + SLACK_S:
                self._problems.append(f"the stopped worker was noticed after {took:.1f} s, timeout_s is {NOTICED_WITHIN_S}")

    def _executor_of(self, workers: list[int]) -> int:
        above = psutil.Process(workers[self._point.victim % len(workers)]).parents()
        return next(process.pid for process in above if process.name() == "java")

    def _executor(self, workers: list[int]) -> list[int]:
        return kill([self._executor_of(workers)])

    def _machine(self, workers: list[int]) -> list[int]:
        executor = self._executor_of(workers)
        self._ground.cluster.lose_worker(self._ground.cluster.worker_of(executor))
        return [executor]

    def _jvm(self, _workers: list[int]) -> list[int]:
        pid = self._ground.program(self._point.place).pid
        assert pid is not None
        return kill([process.pid for process in self._ground.java(pid)])

    def _driver(self, _workers: list[int]) -> list[int]:
        pid = self._ground.program(self._point.place).pid
        assert pid is not None
        return kill([pid])

    def _flow(self, _workers: list[int]) -> list[int]:
        assert self._ground.command is not None
        return kill([self._ground.command.pid])

    def _disk(self, _workers: list[int]) -> list[int]:
        assert self._ground.disk is not None
        self._ballast = fill(self._ground.disk)
        return [0]

    def _free_disk(self, line: str) -> None:
        if NO_SPACE in line:
            self._no_space += 1
            if self._no_space >= self._point.more:
                self._empty_disk()

    def _empty_disk(self) -> None:
        if self._ballast is not None:
            self._ballast.unlink(missing_ok=True)

    def _store(self, _workers: list[int]) -> list[int]:
        rule = Refusals(REFUSALS[self._point.more - 1], ACTIONS[self._point.victim % len(ACTIONS)])
        self._refusals = rule
        self._ground.front.reset(rule)
        return [0]

    def _after_failure(self) -> None:
        """Before the same command is given again: what was started is gone by itself, and the fault is over."""
        self._empty_disk()
        self._refusals.left = 0
        deadline = time.monotonic() + GONE_WITHIN_S
        while (left := self._orphans()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._problems += [f"still there {GONE_WITHIN_S:.0f} s after its parent: {line[:150]}" for line in left]

    def _orphans(self) -> list[str]:
        kept = set(self._ground.kept())
        for pid in list(kept):
            try:
                kept |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return [line for pid, line in marked(self._ground.mark).items() if pid not in kept]


_STRIKES: dict[str, Callable[[PointRun, list[int]], list[int]]] = {
    "worker-kill": PointRun._one_worker,
    "workers-kill": PointRun._all_workers,
    "worker-stop": PointRun._stop_worker,
    "executor-kill": PointRun._executor,
    "executor-loss": PointRun._machine,
    "jvm-kill": PointRun._jvm,
    "driver-kill": PointRun._driver,
    "flow-kill": PointRun._flow,
    "disk-full": PointRun._disk,
    "store-fails": PointRun._store,
}


def chosen(seed: int, index: int, **changes: Any) -> Point:
    """A point with some of its choices made by hand."""
    return replace(draw(seed, index), **changes)
