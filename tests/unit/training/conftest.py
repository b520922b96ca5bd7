from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.settings import Settings
from ts4s_core.training.driver.launcher import Launcher
from ts4s_core.training.driver.local_launcher import LocalLauncher
from ts4s_core.training.driver.train_step import Factories, train

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # for toy.py, which workers import by name too

Train = Callable[..., StepResult]


def sealed(store: ArtifactStore, kind: str) -> ArtifactRef:
    """Stands for a dataset or a model: the toy factories read neither."""
    with store.begin(kind, "toy", "ab" * 32, settings={}, upstream={}) as writer:
        writer.add_json("config.json", {"toy": kind})
        if kind == "dataset":
            facts = DatasetFacts(labels=("a", "b", "c"), fingerprint="", task="classification", max_length=9, pad_id=0)
            writer.facts = facts.to_json()
        return writer.seal().ref


@pytest.fixture
def run(store: ArtifactStore) -> Train:
    refs: dict[str, ArtifactRef] = {}

    def train_toy(
        *,
        name: str = "toy",
        extra: dict[str, Any] | None = None,
        exchange: str = "auto",
        ledger: Path | None = None,
        launcher: Launcher | None = None,
        progress: Any = None,
        reuse: bool = False,
        **settings: Any,
    ) -> StepResult:
        for kind in ("dataset", "model"):
            refs.setdefault(kind, sealed(store, kind))
        values = {
            "batch_size": 12,
            "epochs": 2,
            "learning_rate": 1e-2,
            "timeout_s": 30,
            "checkpoint_every_steps": 1_000,
            "ledger": str(ledger) if ledger else None,
        } | settings
        return train(
            Settings(name=name, train=values, storage=store.storage.settings, reuse=reuse, spark={"master": "none"}),
            store,
            launcher or LocalLauncher(threads_per_worker=1, python_path=[HERE]),
            **refs,
            progress=progress or (lambda stage, fields: None),
            factories=Factories("toy:model", "toy:rows", extra or {}, exchange),
        )

    return train_toy
