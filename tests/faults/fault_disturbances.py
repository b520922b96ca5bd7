"""Faults of leases, clocks and the store's other users: what each does to a run, and how the run may take it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from fault_acts import HELD_UP_S, hold_up, kill
from fault_command import COMMAND_LIMIT_S, Command, Launch
from fault_ground import Ground
from fault_points import Point
from lease_processes import NEW_NAMESPACE, WORKER, faked_clock

from ts4s_core.artifacts.leases.lease import LEASES, LIMITS, claims
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import MANIFEST
from ts4s_core.errors import Ts4sError
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram
from ts4s_core.training.facts import TrainedFacts
from ts4s_core.training.job import storage_to_wire

STOPPED_S = 70.0
CLOCKS = ("+61", "-61", "+2", "-2", "+3d", "-3d", "+0")
CLOCK_STEP_S = 0.3
#: Within which somebody who asks for a lease sees that it is renewed, on a busy machine.
ANSWERED_WITHIN_S = 20.0
CLOCK_SITE = Path(__file__).with_name("clock_site")


class Disturbance:
    """A fault of one run. What every one of them must not do: change a weight, leave anything behind.

    Attributes:
        felt: whether the fault came to the run while it went on.
        problems: what is not as it should be.
    """

    #: What a command may end with, after which the same command goes on. Nothing: the run must not be ended by it.
    allowed = r"(?!)"

    def __init__(self, ground: Ground, point: Point, settings: Settings, *, expected: str) -> None:
        self.felt = False
        self.problems: list[str] = []
        self._ground, self._point, self._settings, self._expected = ground, point, settings, expected

    def prepare(self) -> None:
        """Before the run begins."""

    def strike(self, workers: list[int]) -> list[int]:
        """Do it; who was hit."""
        raise NotImplementedError

    def settle(self) -> None:
        """A command has ended: wait for what was started beside it."""

    def check(self, facts: dict[str, Any], errors: list[str]) -> None:
        """The last command has ended."""
        self.problems += [f"ended with {error}" for error in errors if not re.search(self.allowed, error)]
        if self.allowed == Disturbance.allowed and facts.get("restarts"):
            self.problems.append(f"{facts['restarts']} attempts were ended by it")

    def _store(self) -> ArtifactStore:
        return ArtifactStore.open(self._ground.storage(self._point.place))

    def _hold_up(self, workers: list[int], seconds: float = HELD_UP_S) -> None:
        hold_up(workers[self._point.victim % len(workers)], seconds)


class HolderStop(Disturbance):
    """Who holds a lease, or all of its host, stands still for 70 s; every other time the same command is given meanwhile."""

    allowed = r"Lease of \S+ was lost|Spark program \(pid \d+\) was silent for"

    def __init__(self, ground: Ground, point: Point, settings: Settings, *, expected: str) -> None:
        super().__init__(ground, point, settings, expected=expected)
        self._woken = threading.Event()
        self._woken.set()
        self._successor: threading.Thread | None = None
        self._came_to: list[tuple[dict[str, Any], str]] = []

    def strike(self, workers: list[int]) -> list[int]:
        self._woken.clear()
        try:
            victims = self._victims()
            held = self._store().storage
            if not {claim.pid for name in held.folders(LEASES) for claim in claims(held, name)} & set(victims):
                self.problems.append("none of those that were stopped held a lease")
            hit = kill(victims, signal.SIGSTOP, wanted=("T",))
            stopped = time.monotonic()
            if self._point.victim % 2 == 0:
                self._successor = threading.Thread(target=self._succeed, name="successor")
                self._successor.start()
            time.sleep(max(0.0, STOPPED_S - (time.monotonic() - stopped)))
            self.felt = len(hit) == len(victims)
            for pid in hit:
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGCONT)
            return hit
        finally:
            self._woken.set()

    def settle(self) -> None:
        self._woken.wait(STOPPED_S + 10)
        if self._successor is not None:
            self._successor.join(COMMAND_LIMIT_S + 10)

    def check(self, facts: dict[str, Any], errors: list[str]) -> None:
        super().check(facts, errors)
        for found, error in self._came_to:
            if error and not re.search(self.allowed, error):
                self.problems.append(f"the successor ended with {error}")
            if not error and found["weights_sha256"] != self._expected:
                self.problems.append("the successor trained other weights")
        store = self._store()
        trained = store.versions("trained", self._point.name)
        hashes = [TrainedFacts.of(store.manifest(ref)).weights_sha256 for ref in trained]
        if hashes != [self._expected]:
            self.problems.append(f"expected one sealed version, got {len(hashes)}")

    def _victims(self) -> list[int]:
        if not self._point.place.endswith("-command"):
            pid = self._ground.program(self._point.place).pid
            assert pid is not None
            return [pid] if self._point.more < 3 else _tree(pid)
        assert self._ground.command is not None
        outer = self._ground.command.pid
        if self._point.more == 1:
            return [outer]
        return _tree(outer) if self._point.more == 3 else [pid for pid in _tree(outer) if _is_program(pid)]

    def _succeed(self) -> None:
        """The same command, given by somebody else."""
        try:
            if self._point.place.endswith("-command"):
                self._came_to.append((self._ground.start_command(self._point, self._settings, Launch()).end(), ""))
            else:
                with SparkProgram(self._settings) as program:
                    found = dict(program.run(self._ground.job(), timeout_s=COMMAND_LIMIT_S)["facts"])
                    self._came_to.append((found, ""))
        except Ts4sError as exc:
            self._came_to.append(({}, str(exc)[:300]))


class ClockSteps(Disturbance):
    """The clock that a process sees is stepped back and forth until the run ends: the command's alone, or every process's."""

    def __init__(self, ground: Ground, point: Point, settings: Settings, *, expected: str) -> None:
        super().__init__(ground, point, settings, expected=expected)
        self._clock = ground.folder / "clock"
        self._ended = threading.Event()
        self._steps = 0
        self._thread = threading.Thread(target=self._step, name="clock", daemon=True)

    def prepare(self) -> None:
        self._clock.write_text("+0", encoding="ascii")
        alone = {"FAULT_CLOCK_ALONE": "1"} if self._point.more < 3 else {}
        path = os.pathsep.join(filter(None, (str(CLOCK_SITE), os.environ.get("PYTHONPATH"))))
        self._ground.launch = Launch(env={**faked_clock(self._clock), **alone, "PYTHONPATH": path})

    def strike(self, workers: list[int]) -> list[int]:
        self._hold_up(workers)
        self._thread.start()
        return [0]

    def settle(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        self.felt = self._steps >= len(CLOCKS)

    def _step(self) -> None:
        choice, new = random.Random(f"clock/{self._point.name}"), self._clock.with_suffix(".new")
        while not self._ended.wait(CLOCK_STEP_S):
            new.write_text(choice.choice(CLOCKS), encoding="ascii")
            new.replace(self._clock)
            self._steps += 1


class SecondNamespace(Disturbance):
    """Somebody in another pid namespace wants the lease: a scheduled run, the same command, or one outside of the run's."""

    def __init__(self, ground: Ground, point: Point, settings: Settings, *, expected: str) -> None:
        super().__init__(ground, point, settings, expected=expected)
        self._other: subprocess.Popen[str] | Command | None = None
        self._answer: tuple[str, float] | None = None
        self._listener: threading.Thread | None = None

    def prepare(self) -> None:
        inside = self._point.more == 3
        self._ground.launch = Launch(before=NEW_NAMESPACE if inside else ())
        if self._point.more != 2:
            command = [*(() if inside else NEW_NAMESPACE), sys.executable, str(WORKER), "try"]
            self._other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def strike(self, workers: list[int]) -> list[int]:
        self._hold_up(workers, ANSWERED_WITHIN_S)
        if self._other is None:
            self._other = self._ground.start_command(self._point, self._settings, Launch(before=NEW_NAMESPACE))
            return [self._other.pid]
        assert isinstance(self._other, subprocess.Popen)
        assert self._other.stdin is not None
        name = self._point.name if self._point.place == "retrain-command" else f"_train-{self._point.name}"
        options = {"storage": storage_to_wire(self._ground.storage(self._point.place)), "limits": asdict(LIMITS), "name": name}
        self._other.stdin.write(json.dumps(options) + "\n")
        self._other.stdin.flush()
        self._listener = threading.Thread(target=self._listen, args=(self._other,), name="other", daemon=True)
        self._listener.start()
        return [self._other.pid]

    def settle(self) -> None:
        if isinstance(self._other, Command):
            self._wait_for_the_same_command(self._other)
        elif self._other is not None:
            if self._listener is not None:
                self._listener.join(COMMAND_LIMIT_S)
            with self._other as other:  # closes its ends; one that was told nothing ends by that
                other.communicate(timeout=COMMAND_LIMIT_S)
            said, at = self._answer or ("", 0.0)
            self.felt = said.startswith("failed LeaseHeldError")
            if said == "admitted" and at < self._sealed_at():
                self.problems.append("somebody in another pid namespace was admitted while the run went on")
        self._other = None

    def _listen(self, other: subprocess.Popen[str]) -> None:
        assert other.stdout is not None
        said = other.stdout.readline().strip()
        self._answer = said, time.time()

    def _sealed_at(self) -> float:
        """When the run's weights were sealed, until when it held its lease."""
        store = self._store()
        sealed = [f"{ref}/{MANIFEST}" for ref in store.versions("trained", self._point.name)]
        return max(
            (entry.mtime for entry in store.storage.list(f"trained/{self._point.name}") if entry.path in sealed), default=0.0
        )

    def _wait_for_the_same_command(self, other: Command) -> None:
        try:
            found = other.end()
        except Ts4sError as exc:
            self.problems.append(f"the same command in another pid namespace ended with {exc}")
            return
        self.felt = True
        if found["weights_sha256"] != self._expected:
            self.problems.append("the same command in another pid namespace trained other weights")


def _tree(pid: int) -> list[int]:
    """A process and all that it started, from the outside in."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def _is_program(pid: int) -> bool:
    try:
        return "ts4s_core.spark.driver.program" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
