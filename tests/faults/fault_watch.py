"""Sees how far a run is, by its ledger and its store, and strikes when it is where a point aims at."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_points import Aim

from ts4s_core.artifacts.versions.refs import TEMPORARY

POLL_S = 0.002


@dataclass
class Struck:
    """A fault that was done.

    Attributes:
        step: the last step that a worker had begun when it was done.
        victims: process ids.
    """

    step: int
    victims: list[int] = field(default_factory=list)


class Attempt:
    """The ledger files of one attempt: one a rank, each held open by its worker."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder
        self.prefix = prefix
        self.step = 0
        self._tail = b""
        self._file = next(iter(sorted(folder.glob(f"{prefix}-*.csv")))).open("rb")

    def look(self) -> int:
        """The last step that the first rank has begun."""
        data = self._tail + self._file.read()
        *lines, self._tail = data.split(b"\n")
        if lines:
            found = lines[-1].split(b",", 1)[0]
            self.step = int(found) if found.isdigit() else self.step
        return self.step

    def workers(self) -> dict[int, int]:
        """Process ids by rank."""
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                for path in open_files(int(entry)):
                    if path.startswith(f"{self.folder}/{self.prefix}-"):
                        found[int(Path(path).stem.rpartition("-")[2])] = int(entry)
        return dict(sorted(found.items()))

    def ranks(self) -> int:
        """Ranks that have begun."""
        return len(list(self.folder.glob(f"{self.prefix}-*.csv")))

    def close(self) -> None:
        self._file.close()


class Watch(threading.Thread):
    """Waits for each aim in an attempt of its own, and calls ``strike``; a context manager.

    Args:
        ledger: folder of the run's ledgers.
        versions: folder of the store that the run's checkpoints and trained versions come below: ``KIND`` -> folder.
        aims: one an attempt.
        workers: W of the first attempt.
        strike: told of the attempt and its workers by rank; returns the victims that it hit.
    """

    def __init__(
        self,
        ledger: Path,
        versions: Callable[[str], Path],
        aims: tuple[Aim, ...],
        *,
        workers: int,
        strike: Callable[[dict[int, int]], list[int]],
    ) -> None:
        super().__init__(name="fault-watch", daemon=True)
        self.struck: list[Struck] = []
        self.failure: BaseException | None = None
        self._ledger = ledger
        self._versions = versions
        self._aims = aims
        self._workers = workers
        self._strike = strike
        self._ended = threading.Event()
        self._seen: set[str] = set()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self.join(10)

    def run(self) -> None:
        try:
            for number, aim in enumerate(self._aims):
                attempt = self._next_attempt()
                if attempt is None:
                    return
                try:
                    # Later attempts may have fewer workers; all of them are there when a step is done.
                    self._one(attempt, aim, workers_wanted=self._workers if number == 0 else 1)
                finally:
                    attempt.close()
        except BaseException as exc:
            self.failure = exc

    def _one(self, attempt: Attempt, aim: Aim, *, workers_wanted: int) -> None:
        workers: dict[int, int] = {}
        before = set(self._staged("checkpoint"))
        while not self._ended.wait(POLL_S):
            step = attempt.look()
            wanted = max(workers_wanted, attempt.ranks())
            if len(workers) < wanted:
                workers = attempt.workers()
            if len(workers) < wanted or not self._due(aim, step, before):
                continue
            victims = self._strike(workers)
            if victims:
                self.struck.append(Struck(attempt.look(), victims))
            return

    def _due(self, aim: Aim, step: int, before: set[str]) -> bool:
        if step < aim.step:
            return False
        if aim.during == "checkpoint":
            return bool(set(self._staged("checkpoint")) - before)
        if aim.during == "end":
            return any(
                next(self._versions("trained").glob(f"{name}/*model.safetensors"), None) or self._files(name)
                for name in self._staged("trained")
            )
        return True

    def _files(self, name: str) -> list[Path]:
        """What is written of a version, its reservation left out."""
        return [path for path in (self._versions("trained") / name).iterdir() if path.name != f"{TEMPORARY}writer"]

    def _staged(self, kind: str) -> list[str]:
        """Versions that are being written."""
        folder = self._versions(kind)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith(TEMPORARY) or not (folder / name / "manifest.json").exists()]

    def _next_attempt(self) -> Attempt | None:
        while not self._ended.wait(POLL_S):
            prefixes = {path.name.rpartition("-")[0] for path in self._ledger.glob("*.csv")}
            new = sorted(prefixes - self._seen)
            if new:
                self._seen |= prefixes
                return Attempt(self._ledger, new[-1])
        return None


def open_files(pid: int) -> list[str]:
    """Paths of a process's open files; none where it has ended."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = []
    for name in names:
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    return found
