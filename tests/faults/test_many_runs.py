"""Many processes train, publish, promote, roll back and collect on one model while some of them are stopped for longer than a
lease lives: every alias stands at a sealed, verified version, and the history has no fork."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.leases.lease import LIMITS, Limits, claims
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import StorageSettings
from ts4s_core.training.job import storage_to_wire

WORKER = Path(__file__).with_name("run_worker.py")
PROCESSES, ROUNDS, LONGEST_STOP_S = 16, int(os.environ.get("FAULT_ROUNDS") or 500), 70.0
#: How many processes are stopped at a time, and how often.
STOPPERS, STOPS = 2, 8
#: How long a process waits between its rounds, and while it trains.
LONGEST_PAUSE_S, LONGEST_TRAINING_S = 12.0, 1.0
#: The same before a server of ours, which answers one after the other: with nearly all sixteen in the queue for the model,
#: each of whom reads every claim once a second, it would do little else. Every long stop fills the queue all the same.
LONGEST_PAUSE_ON_A_SERVER_S = 40.0
LIMIT_S = 6_000
SEED = int(os.environ.get("FAULT_SEED") or 0)


class Stopper(threading.Thread):
    """Stops one process after the other for a while: now whoever holds the model, now anybody.

    Attributes:
        stopped_s: for how long each was stopped, in seconds.
    """

    def __init__(
        self, processes: list[subprocess.Popen[str]], storage: Storage, *, stops: int, longest_s: float, seed: str
    ) -> None:
        super().__init__(name=f"stopper {seed}")
        self.stopped_s: list[float] = []
        self.ended = threading.Event()
        self._processes, self._storage, self._stops, self._longest_s = processes, storage, stops, longest_s
        self._choice = random.Random(f"stops/{seed}")

    def run(self) -> None:
        for number in range(self._stops):
            if self.ended.wait(self._choice.random()):
                return
            holding = number % 2 == 0
            victim = self._holder() if holding else self._choice.choice(self._processes)
            if victim is not None and victim.poll() is None:
                victim.send_signal(signal.SIGSTOP)
                began = time.monotonic()
                self.ended.wait(self._choice.uniform(0.9 if holding else 0.5, 1.0) * self._longest_s)
                victim.send_signal(signal.SIGCONT)
                self.stopped_s.append(time.monotonic() - began)

    def _holder(self) -> subprocess.Popen[str] | None:
        """Who is at the front of the queue for the model, as soon as there is one."""
        while not self.ended.wait(0.02) and any(process.poll() is None for process in self._processes):
            numbered = [claim for claim in claims(self._storage, "demo") if claim.number]
            first = min(numbered, key=lambda claim: (claim.number, claim.token), default=None)
            for process in self._processes:
                if first is not None and process.pid == first.pid:
                    return process
        return None


def run_all(
    settings: StorageSettings,
    *,
    processes: int,
    rounds: int,
    limits: Limits,
    longest_stop_s: float,
    stops: int,
    longest_pause_s: float,
    longest_training_s: float,
) -> dict[str, int]:
    """Start the workers together, stop one after the other for a while, and wait; how often each act was done."""
    options = {
        "limits": asdict(limits),
        "longest_pause_s": longest_pause_s,
        "longest_training_s": longest_training_s,
        "seed": SEED,
    }
    wire = json.dumps({"storage": storage_to_wire(settings), **options})
    shares = [rounds // processes + (number < rounds % processes) for number in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(number), str(share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, share in enumerate(shares)
    ]
    storage = ArtifactStore.open(settings).storage
    stoppers = [
        Stopper(started, storage, stops=stops, longest_s=longest_stop_s, seed=f"{SEED}/{number}") for number in range(STOPPERS)
    ]
    for stopper in stoppers:
        stopper.start()
    done: dict[str, int] = {}
    deadline = time.monotonic() + LIMIT_S
    try:
        for process in started:  # all before the first is waited for
            assert process.stdin is not None
            process.stdin.write(wire + "\n")
            process.stdin.flush()
        results = [process.communicate(timeout=max(1.0, deadline - time.monotonic())) for process in started]
    finally:
        for stopper in stoppers:
            stopper.ended.set()
            stopper.join()
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * processes, [err[-800:] for _, err in results]
    for out, _ in results:
        for act, count in json.loads(out).items():
            done[act] = done.get(act, 0) + count
    stopped_s = sorted(round(seconds) for stopper in stoppers for seconds in stopper.stopped_s)
    print(f"{sum(done.values())} rounds: {dict(sorted(done.items()))}; stopped for {stopped_s} s")
    return done


def check(settings: StorageSettings) -> None:
    store = ArtifactStore.open(settings)
    history = Registry(store).history("demo")
    assert [entry.number for entry in history.entries] == list(range(1, history.number + 1))
    # One order: every entry knows where its alias stood before it.
    stood: str | None = None
    for entry in history.entries:
        assert entry.before == stood, entry
        stood = stood if entry.action == "refuse" else entry.to
    for version in history.aliases.values():
        assert store.sealed(ArtifactRef("trained", "demo", version))
    assert [damage for row in verify(store) for damage in row.damages] == []
    assert store.storage.list("leases") == []


@pytest.fixture(params=["folder", "moto", "rclone"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, fronts: Callable[[str], Any]) -> StorageSettings:
    """A folder; a server whose conditional writes are atomic; one without conditional writes."""
    if request.param == "folder":
        return StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"))
    server = request.getfixturevalue(f"{request.param}_server")
    settings: StorageSettings = server.settings(tmp_path / "cache")
    if request.param == "rclone":
        return settings
    front = fronts(server.url)
    front.serialise = True
    return settings.model_copy(update={"endpoint_url": front.url})


@pytest.mark.faults
@pytest.mark.timeout(LIMIT_S + 300)
def test_sixteen_processes_in_five_hundred_rounds(storage: StorageSettings) -> None:
    done = run_all(
        storage,
        processes=PROCESSES,
        rounds=ROUNDS,
        limits=LIMITS,
        longest_stop_s=LONGEST_STOP_S,
        stops=STOPS,
        longest_pause_s=LONGEST_PAUSE_S if "://" not in storage.uri else LONGEST_PAUSE_ON_A_SERVER_S,
        longest_training_s=LONGEST_TRAINING_S,
    )
    assert sum(done.values()) == ROUNDS
    assert done["run"] > ROUNDS / 2
    check(storage)


def test_short_form_in_a_folder(tmp_path: Path) -> None:
    storage = StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"))
    limits = Limits(expires_s=1.5, renew_s=0.2, poll_s=0.02)
    done = run_all(
        storage,
        processes=4,
        rounds=24,
        limits=limits,
        longest_stop_s=3.0,
        stops=1,
        longest_pause_s=0.4,
        longest_training_s=0.05,
    )
    assert sum(done.values()) == 24
    assert done["run"] >= 8
    check(storage)
