"""The registry's history, and eight processes that publish and promote at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import TEMPORARY, ArtifactRef
from ts4s_core.errors import InputError, IntegrityError, NotFoundError

KEY = "1a2b3c4d" + "0" * 56
PROCESSES, ROUNDS = 8, 20


def publish(store: ArtifactStore, data: bytes = b"w") -> ArtifactRef:
    with store.begin("trained", "demo", KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("model.safetensors", data)
        writer.seal()
    return writer.ref


def test_alias_is_what_the_highest_entry_says(store: ArtifactStore) -> None:
    registry, (first, second) = Registry(store), (publish(store), publish(store))
    assert registry.resolve("demo") == second
    registry.decide("demo", to=first.version, why="beats the majority class", metrics={"accuracy": 0.9})
    registry.decide("demo", to=second.version, why="worse", metrics={"accuracy": 0.8}, promoted=False)
    registry.decide("demo", to=second.version, why="try it", alias="staging")
    assert registry.aliases("demo") == {"champion": first.version, "staging": second.version}
    assert registry.resolve("demo") == registry.resolve("demo@champion") == first
    assert registry.resolve("demo@staging") == registry.resolve(f"demo@{second.version}") == second
    assert [entry.action for entry in registry.entries("demo")] == ["promote", "refuse", "promote"]
    registry.decide("demo", to=None, why="done", alias="staging")
    with pytest.raises(NotFoundError, match="No alias staging of model demo: it has champion"):
        registry.resolve("demo@staging")


def test_rollback_goes_back_step_by_step(store: ArtifactStore) -> None:
    registry, refs = Registry(store), [publish(store) for _ in range(3)]
    with pytest.raises(NotFoundError, match="no earlier version"):
        registry.rollback("demo", why="none")
    for ref in refs:
        registry.decide("demo", to=ref.version, why="better")
    assert registry.rollback("demo", why="bad").to == refs[1].version
    assert registry.needed("demo") == {refs[0].version, refs[1].version}
    assert registry.rollback("demo", why="bad too").to == refs[0].version
    with pytest.raises(NotFoundError, match="no earlier version"):
        registry.rollback("demo", why="none")
    assert registry.decide("demo", to=refs[2].version, why="mended").before == refs[0].version
    assert registry.rollback("demo", why="again").to == refs[0].version
    assert [entry.number for entry in registry.entries("demo")] == list(range(1, 8))


def test_unknown_models_and_versions_are_named(store: ArtifactStore) -> None:
    registry, ref = Registry(store), publish(store)
    with pytest.raises(NotFoundError, match=r"No model other in .*: it has demo"):
        registry.resolve("other")
    with pytest.raises(NotFoundError, match=f"has the versions {ref.version}"):
        registry.decide("demo", to="20261121T041500.123456Z-1a2b3c4d", why="no such")
    with pytest.raises(InputError, match="Name"):
        registry.resolve("../demo")
    assert registry.entries("demo") == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"number": 1}'])
def test_damaged_entry_is_refused(store: ArtifactStore, data: bytes) -> None:
    registry, ref = Registry(store), publish(store)
    registry.decide("demo", to=ref.version, why="first")
    store.storage.write_bytes("registry/demo/00000001.json", data)
    with pytest.raises(IntegrityError, match=r"registry/demo/00000001\.json is damaged"):
        registry.alias("demo")


def run_all(work: str, store: ArtifactStore, *, processes: int, rounds: int) -> list[list[int]]:
    program, settings = Path(__file__).with_name("store_worker.py"), json.dumps({"uri": store.storage.uri})
    running = [
        subprocess.Popen([sys.executable, str(program), work, settings, str(number), str(rounds)], stdout=subprocess.PIPE)
        for number in range(processes)
    ]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return [json.loads(answer) for answer in answers]


def test_eight_processes_publish_and_promote(store: ArtifactStore) -> None:
    run_all("promote", store, processes=PROCESSES, rounds=ROUNDS)
    entries = Registry(store).entries("demo")
    assert [entry.number for entry in entries] == list(range(1, PROCESSES * ROUNDS + 1))
    assert {entry.why for entry in entries} == {f"{number} {turn}" for number in range(PROCESSES) for turn in range(ROUNDS)}
    assert [entry.before for entry in entries] == [None, *(entry.to for entry in entries[:-1])]
    versions = store.versions("trained", "demo")
    assert {ref.version for ref in versions} == {entry.to for entry in entries}
    assert len(versions) == PROCESSES * ROUNDS
    assert [row for row in verify(store) if row.damages] == []
    assert not [entry for entry in store.storage.list("", temporary=True) if TEMPORARY in entry.path]


def test_two_processes_race_to_create(store: ArtifactStore) -> None:
    won = run_all("race", store, processes=2, rounds=100)
    assert sorted(won[0] + won[1]) == list(range(100))
    for number, turns in enumerate(won):
        for turn in turns:
            assert store.storage.read_bytes(f"registry/demo/{turn:08d}.json") == str(number).encode()
