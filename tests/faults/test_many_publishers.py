"""Eight processes publish and promote at once: every version is sealed once, the history is complete and in one order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.settings import StorageSettings
from ts4s_core.training.job import storage_to_wire

WORKER = Path(__file__).parents[1] / "unit" / "artifacts" / "store_worker.py"
PROCESSES, ROUNDS = 8, 200
# 200 rounds in all: moto takes some twenty requests a round one after the other, and lists in the time of all its objects.
ROUNDS_ON_A_SERVER = ROUNDS // PROCESSES
LIMIT_S = 3_000


def run_all(settings: StorageSettings, processes: int, rounds: int) -> None:
    """Start the publishers together and wait; each checks after each round that the champion is a sealed version."""
    wire = json.dumps(storage_to_wire(settings))
    command = [sys.executable, str(WORKER), "promote", wire]
    started = [
        subprocess.Popen([*command, str(number), str(rounds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    try:
        results = [process.communicate(timeout=LIMIT_S) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, [err[-500:] for _, err in results]


def check(settings: StorageSettings, processes: int, rounds: int) -> None:
    store = ArtifactStore.open(settings)
    versions = [ref.version for ref in store.versions("trained", "demo")]
    entries = Registry(store).entries("demo")
    assert len(versions) == len(set(versions)) == processes * rounds
    assert [entry.number for entry in entries] == list(range(1, processes * rounds + 1))
    assert sorted(str(entry.to) for entry in entries) == versions
    # One order: every entry knows the one before it.
    assert [entry.before for entry in entries] == [None, *(entry.to for entry in entries[:-1])]
    assert {entry.why for entry in entries} == {f"{number} {turn}" for number in range(processes) for turn in range(rounds)}
    for number in range(processes):
        turns = [int(entry.why.split()[1]) for entry in entries if entry.why.startswith(f"{number} ")]
        assert turns == list(range(rounds))
    assert Registry(store).alias("demo") == entries[-1].to
    assert [damage for row in verify(store) for damage in row.damages] == []
    assert store.storage.list("", temporary=True) == store.storage.list()


@pytest.mark.faults
@pytest.mark.timeout(LIMIT_S + 300)
def test_eight_publishers_in_a_folder(tmp_path: Path) -> None:
    settings = StorageSettings(uri=str(tmp_path / "store"))
    run_all(settings, PROCESSES, ROUNDS)
    check(settings, PROCESSES, ROUNDS)


@pytest.mark.faults
@pytest.mark.timeout(LIMIT_S + 300)
def test_eight_publishers_on_a_server_whose_conditional_writes_are_atomic(
    moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path
) -> None:
    front = fronts(moto_server.url)
    front.serialise = True
    settings = moto_server.settings(tmp_path / "cache").model_copy(update={"endpoint_url": front.url})
    run_all(settings, PROCESSES, ROUNDS_ON_A_SERVER)
    check(settings, PROCESSES, ROUNDS_ON_A_SERVER)


def test_short_form_on_a_server(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    front = fronts(moto_server.url)
    front.serialise = True
    settings = moto_server.settings(tmp_path / "cache").model_copy(update={"endpoint_url": front.url})
    run_all(settings, 2, 4)
    check(settings, 2, 4)
