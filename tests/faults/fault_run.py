"""One point from its beginning to its record."""

from __future__ import annotations

import datetime
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from fault_acts import fill, hold_up, kill
from fault_command import Launch
from fault_disturbances import ClockSteps, Disturbance, HolderStop, SecondNamespace
from fault_ground import NOTICED_WITHIN_S, Ground, Refusals
from fault_inputs import read_ledger
from fault_leftovers import GONE_WITHIN_S, Before, leftovers, marked
from fault_network import Strangers
from fault_points import STEPS, Point
from fault_results import Record
from fault_store_users import StageVanishes, Upkeep, store_problems
from fault_watch import Watch

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.keys import code_version
from ts4s_core.errors import Ts4sError
from ts4s_core.settings import Settings

COMMANDS = 3
#: A noticed silence, the end of the attempt, and the next one's start on a busy machine.
SLACK_S = 15.0
#: Requests that go wrong, and how: within one call's own retries, beyond them, and longer than a write is tried again.
REFUSALS = (3, 30, 150)
ACTIONS = ("cut before", "cut body", "cut answer", "half answer", "500", "SlowDown")
NO_SPACE = "No space left"
#: Strangers that a run has felt.
CAME = 300


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
        self._strangers: Strangers | None = None
        self._problems: list[str] = []
        self._disturbance: Disturbance | None = None
        self._struck_at = 0.0
        self._noticed_s: float | None = None

    def run(self) -> Record:
        """Run it and check everything."""
        ground, point = self._ground, self._point
        ground.ready(point.place)
        settings = ground.settings(point, self._ledger)
        if point.kind in DISTURBANCES:
            self._disturbance = DISTURBANCES[point.kind](ground, point, settings, expected=self._expected)
            self._disturbance.prepare()
        ground.log.lines.clear()
        before = Before.now(ground.temporary)
        began = time.monotonic()
        watch, facts, errors = self._commands(settings)
        seconds = time.monotonic() - began
        self._check(facts, errors)
        felt = bool(errors) or int(facts.get("restarts", 0)) > 0 or self._no_space > 0 or self._refusals.done > 0
        felt = felt or (self._strangers is not None and self._strangers.came >= CAME)
        if self._disturbance is not None:
            felt = self._disturbance.felt
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
            failed_commands=errors,
            failed_attempts=[line[:200] for line in ground.log.lines if "training attempt failed" in line],
            restarts=int(facts.get("restarts", 0)),
            workers_at_end=int(facts.get("workers", 0)),
            weights_sha256=str(facts.get("weights_sha256")),
            expected_sha256=self._expected,
            left=left,
            problems=[*self._problems, *([] if facts else ["no command came to its end"])],
            seconds=round(seconds, 1),
            noticed_s=self._noticed_s,
            code=code_version(),
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _commands(self, settings: Settings) -> tuple[Watch, dict[str, Any], list[str]]:
        """Give the command until it succeeds: the watch, facts of the trained version, errors of the commands that failed."""
        ground, point = self._ground, self._point
        errors: list[str] = []
        facts: dict[str, Any] = {}
        if point.kind == "disk-full":
            ground.log.on_line.append(self._free_disk)
        versions = lambda kind: ground.store_folder(point.place) / kind / point.name  # noqa: E731
        with Watch(self._ledger, versions, point.aims, workers=point.workers, strike=self._strike) as watch:
            while not facts and len(errors) < COMMANDS:
                try:
                    facts = ground.train(point, settings)
                except Ts4sError as exc:
                    errors.append(f"{type(exc).__name__}: {exc}"[:300])
                    self._after_failure()
            if self._strangers is not None:
                self._strangers.end()
            if self._disturbance is not None:
                self._disturbance.settle()
        ground.launch = Launch()
        ground.log.on_line.clear()
        if watch.failure is not None:
            raise watch.failure
        return watch, facts, errors

    def _check(self, facts: dict[str, Any], errors: list[str]) -> None:
        point = self._point
        if point.kind == "executor-loss" and facts.get("workers") != 1 and not errors:
            self._problems.append(f"went on with {facts.get('workers')} workers after one of two executors was lost")
        if point.kind == "strangers" and (errors or facts.get("restarts")):
            self._problems.append("strangers ended an attempt")
        if self._disturbance is not None:
            self._disturbance.check(facts, errors)
            self._problems += self._disturbance.problems
        self._check_store()
        try:
            found = read_ledger(self._ledger)
        except AssertionError as exc:
            self._problems.append(str(exc))
            return
        wrong = [at for at, samples in found.items() if self._expected_ledger.get(at) != samples]
        if wrong or max(step for step, _part in found) != STEPS:
            self._problems.append(f"ledger differs from the undisturbed run's at {wrong[:3]}")

    def _check_store(self) -> None:
        self._refusals.left = 0
        store = ArtifactStore.open(self._ground.storage(self._point.place))
        damages = [f"{damage.path} {damage.problem}" for row in verify(store, self._point.name) for damage in row.damages]
        self._problems += store_problems(store, self._point.name, damages)

    def _strike(self, workers: dict[int, int]) -> list[int]:
        self._struck_at = time.monotonic()
        if self._disturbance is not None:
            return self._disturbance.strike(list(workers.values()))
        return _STRIKES[self._point.kind](self, list(workers.values()))

    def _one_worker(self, workers: list[int]) -> list[int]:
        return kill([workers[self._point.victim % len(workers)]])

    def _all_workers(self, workers: list[int]) -> list[int]:
        return kill(workers)

    def _stop_worker(self, workers: list[int]) -> list[int]:
        hit = kill([workers[self._point.victim % len(workers)]], signal.SIGSTOP, wanted=("T",))
        self._ground.log.on_line.append(self._noticed)
        return hit

    def _cut_driver(self, _workers: list[int]) -> list[int]:
        assert self._ground.space is not None
        self._ground.space.cut()
        self._ground.log.on_line += [self._noticed, self._mended]
        return [0]

    def _mended(self, line: str) -> None:
        if "was silent for" in line and self._ground.space is not None:
            self._ground.log.on_line.remove(self._mended)
            self._ground.space.mend()

    def _crowd(self, workers: list[int]) -> list[int]:
        pid = self._ground.program(self._point.place).pid
        assert pid is not None
        hold_up(workers[self._point.victim % len(workers)])
        self._strangers = Strangers([pid, *workers])
        return self._strangers.start()

    def _noticed(self, line: str) -> None:
        if "was silent for" in line or "waited" in line:
            self._ground.log.on_line.remove(self._noticed)
            self._noticed_s = round(time.monotonic() - self._struck_at, 1)
            if self._noticed_s > NOTICED_WITHIN_S + SLACK_S:
                self._problems.append(f"a stopped worker was noticed after {self._noticed_s} s, timeout_s is {NOTICED_WITHIN_S}")

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
        if self._disturbance is not None:
            self._disturbance.settle()
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


DISTURBANCES: dict[str, type[Disturbance]] = {
    "holder-stop": HolderStop,
    "clock-steps": ClockSteps,
    "second-namespace": SecondNamespace,
    "upkeep": Upkeep,
    "stage-vanishes": StageVanishes,
}
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
    "driver-cut": PointRun._cut_driver,
    "strangers": PointRun._crowd,
}
