"""Others who use the store while a run goes on: upkeep and decisions by hand, and somebody who deletes what is being written."""

from __future__ import annotations

import time
from typing import Any

from fault_command import Command, Launch
from fault_disturbances import Disturbance
from fault_ground import Ground
from fault_points import Point

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY, ArtifactRef
from ts4s_core.errors import StoreError, Ts4sError
from ts4s_core.settings import Settings


class Upkeep(Disturbance):
    """``models gc``, ``promote`` and ``rollback`` while the run goes on, where two champions and a version of no use were."""

    def __init__(self, ground: Ground, point: Point, settings: Settings, *, expected: str) -> None:
        super().__init__(ground, point, settings, expected=expected)
        self._acts = (("promote",), ("rollback",), ("promote", "rollback"))[point.more - 1]
        self._commands: dict[str, Command] = {}
        self._before: list[ArtifactRef] = []

    def prepare(self) -> None:
        ground, point = self._ground, self._point
        store, registry = self._store(), Registry(self._store())
        ground.ready("processes")
        for steps in (1, 2, 3):
            train = {**self._settings.train.model_dump(exclude_unset=True), "max_steps": steps, "ledger": None}
            short = self._settings.model_copy(update={"train": self._settings.train.model_copy(update=train)})
            ground.train(Point(0, 0, "none", "processes", (), 0, 1, 0), short)
        self._before = store.versions("trained", point.name)
        for ref in self._before[1:]:
            registry.decide(point.name, to=ref.version, why="before", who="test")
        uri = f"--storage.uri={self._ground.storage(point.place).uri}"
        wanted = {
            "gc": ["models", "gc", "--storage.grace_hours=0", "--storage.keep_last=1"],
            "promote": ["models", "promote", point.name, self._before[1].version, "--reason=by hand"],
            "rollback": ["models", "rollback", point.name, "--reason=by hand"],
        }
        for name in ("gc", *self._acts):
            self._commands[name] = Command([*wanted[name], uri], Launch(ready=True), folder=ground.folder)

    def strike(self, workers: list[int]) -> list[int]:
        self._hold_up(workers)
        for command in self._commands.values():
            command.go_on()
        self.felt = True
        return [command.pid for command in self._commands.values()]

    def settle(self) -> None:
        for name, command in self._commands.items():
            if not self.felt:
                command.go_on()
            try:
                found = command.end()
            except Ts4sError as exc:
                self.problems.append(f"models {name} ended with {exc}")
                continue
            lost = [item["path"] for item in found.get("removed", ()) if item["reason"] in ("unreferenced", "half-written")]
            if lost:
                self.problems.append(f"gc removed {lost} while a run went on")
        self._commands = {}

    def check(self, facts: dict[str, Any], errors: list[str]) -> None:
        super().check(facts, errors)
        store = self._store()
        entries = Registry(store).history(self._point.name).entries
        by_hand = [entry.action for entry in entries if entry.why == "by hand"]
        if sorted(by_hand) != sorted(self._acts):
            self.problems.append(f"decisions by hand are in the history as {by_hand}")
        collect(store, dry_run=False, grace_s=0.0, keep_last=1)
        if store.sealed(self._before[0]):
            self.problems.append("gc keeps what nobody needs after the run has ended")


class StageVanishes(Disturbance):
    """Somebody deletes the version that is being written."""

    allowed = r"cannot be sealed|comes too late|was given up|was taken away|vanished|is not there"

    def strike(self, workers: list[int]) -> list[int]:
        storage, name = self._store().storage, self._point.name
        for kind in ("checkpoint", "trained") if self._point.aims[0].during == "checkpoint" else ("trained", "checkpoint"):
            listed = storage.list(f"{kind}/{name}", temporary=True)
            folders = {"/".join(entry.path.split("/")[:3]) for entry in listed}
            # Under its temporary name a version is not sealed, even if its manifest is written.
            sealed = {entry.path.rpartition("/")[0] for entry in listed if entry.path.endswith(f"/{MANIFEST}")}
            for folder in sorted({path for path in folders if TEMPORARY in path} | (folders - sealed)):
                for _ in range(20):  # others write into it meanwhile
                    try:
                        storage.delete_tree(folder)
                        self.felt = True
                        return [0]
                    except StoreError:
                        time.sleep(0.01)
        return []


def store_problems(store: ArtifactStore, name: str, damages: list[str]) -> list[str]:
    """What is wrong with the aliases and the history of a name; ``damages`` is what verify says."""
    history, problems = Registry(store).history(name), list(damages)
    if [entry.number for entry in history.entries] != list(range(1, history.number + 1)):
        problems.append("the history has gaps")
    stood: str | None = None
    for entry in history.entries:
        if entry.before != stood:
            problems.append(f"the history forks at entry {entry.number}")
        stood = stood if entry.action == "refuse" else entry.to
    for alias, version in history.aliases.items():
        if not store.sealed(ArtifactRef("trained", name, version)):
            problems.append(f"@{alias} is no sealed version")
    return problems
