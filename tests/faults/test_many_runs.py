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

from ts4s_core.artifacts.leases.lease import LIMITS, Limits
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import StorageSettings
from ts4s_core.training.job import storage_to_wire

WORKER = Path(__file__).with_name("run_worker.py")
PROCESSES, ROUNDS, LONGEST_STOP_S = 16, 500, 70.0
LIMIT_S = 3_300
SEED = int(os.environ.get("FAULT_SEED") or 0)


def run_all(
    settings: StorageSettings, *, processes: int, rounds: int, limits: Limits, longest_stop_s: float, stops: int
) -> dict[str, int]:
    """Start the workers together, stop one after the other for a while, and wait; how often each act was done."""
    wire = json.dumps({"storage": storage_to_wire(settings), "limits": asdict(limits), "seed": SEED})
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
    choice, ended = random.Random(f"stops/{SEED}"), threading.Event()

    def stop_some() -> None:
        for _ in range(stops):
            if ended.wait(choice.random()):
                return
            victim = choice.choice(started)
            if victim.poll() is None:
                victim.send_signal(signal.SIGSTOP)
                ended.wait(choice.uniform(0.5, 1.0) * longest_stop_s)
                victim.send_signal(signal.SIGCONT)

    stopper = threading.Thread(target=stop_some)
    stopper.start()
    done: dict[str, int] = {}
    deadline = time.monotonic() + LIMIT_S
    try:
        results = [process.communicate(wire + "\n", timeout=max(1.0, deadline - time.monotonic())) for process in started]
    finally:
        ended.set()
        stopper.join()
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * processes, [err[-800:] for _, err in results]
    for out, _ in results:
        for act, count in json.loads(out).items():
            done[act] = done.get(act, 0) + count
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
    done = run_all(storage, processes=PROCESSES, rounds=ROUNDS, limits=LIMITS, longest_stop_s=LONGEST_STOP_S, stops=PROCESSES)
    assert sum(done.values()) == ROUNDS
    assert done["run"] > ROUNDS / 2
    check(storage)


def test_short_form_in_a_folder(tmp_path: Path) -> None:
    storage = StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"))
    limits = Limits(expires_s=1.5, renew_s=0.2, poll_s=0.05)
    done = run_all(storage, processes=4, rounds=24, limits=limits, longest_stop_s=3.0, stops=2)
    assert sum(done.values()) == 24
    assert done["run"] >= 8
    check(storage)
