"""Two network namespaces as two hosts: gloo and the hogwild wire across a cable of 1 Gbit/s."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from control_peers import line_of, server_process, worker_process

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.settings import Settings, StorageSettings
from ts4s_core.training.control.client import ABORTED
from ts4s_core.training.driver.local_launcher import LocalLauncher
from ts4s_core.training.driver.train_step import Factories, train

ROOT = Path(__file__).resolve().parents[2]
TOY = str(ROOT / "tests" / "unit" / "training")
_spec = importlib.util.spec_from_file_location("namespaces", ROOT / "infra" / "benchmarks" / "namespaces.py")
assert _spec is not None
assert _spec.loader is not None
namespaces = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("namespaces", namespaces)
_spec.loader.exec_module(namespaces)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not namespaces.available(), reason="needs root, ip and tc: makes network namespaces"),
]


def trained(store: ArtifactStore, name: str, launcher: LocalLauncher, *, exchange: str, **values: Any) -> dict[str, Any]:
    refs = {}
    for kind in ("dataset", "model"):
        with store.begin(kind, name, "ab" * 32, settings={}, upstream={}) as writer:
            writer.add_json("config.json", {"toy": kind})
            if kind == "dataset":
                facts = DatasetFacts(labels=("a", "b", "c"), fingerprint="", task="classification", max_length=9, pad_id=0)
                writer.facts = facts.to_json()
            refs[kind] = writer.seal().ref
    settings = Settings(
        name=name,
        train={"workers": 2, "batch_size": 12, "epochs": 2, "learning_rate": 1e-2, "timeout_s": 60, **values},
        storage=store.storage.settings,
        spark={"master": "none"},
    )
    return train(settings, store, launcher, **refs, factories=Factories("toy:model", "toy:rows", {}, exchange)).facts


def test_two_hosts_give_the_hash_of_one(tmp_path: Path):
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache")))
    alone = trained(store, "alone", LocalLauncher(threads_per_worker=1, python_path=[TOY]), exchange="auto")
    averaged = {"strategy": "averaging", "averaging_frequency": 3}
    one = trained(store, "one", LocalLauncher(threads_per_worker=1, python_path=[TOY]), exchange="auto", **averaged)
    with namespaces.two_hosts("1gbit", name="tst") as places:
        launcher = LocalLauncher(threads_per_worker=1, python_path=[TOY], placements=places)
        assert trained(store, "gloo", launcher, exchange="network")["weights_sha256"] == alone["weights_sha256"]
        assert trained(store, "two", launcher, exchange="network", **averaged)["weights_sha256"] == one["weights_sha256"]
        hogwild = trained(store, "hogwild", launcher, exchange="network", strategy="hogwild")
    assert hogwild["steps"] == alone["steps"]
    assert hogwild["staleness"]["updates"] == 2 * 2 * hogwild["steps"]


def test_an_orphan_on_another_host_ends_within_the_timeout():
    """The cable to the driver's host is cut: no end of a connection reaches the worker, and beats no longer do."""
    timeout_s = 8.0
    with (
        namespaces.two_hosts("1gbit", name="cut") as (here, there),
        server_process(timeout_s, host=here.address) as (driver, address),
        worker_process(address, 0, within=there.prefix) as worker,
    ):
        subprocess.run(["ip", "link", "set", "cut0", "down"], check=True)
        began = time.monotonic()
        assert worker.wait(60) == ABORTED
        assert timeout_s / 2 < time.monotonic() - began < timeout_s + 1.5  # what a loaded machine may be late by
        assert re.fullmatch(r"Worker 0 on \S+ \(pid \d+\) was silent for \d+ s: .* train\.timeout_s 8", line_of(driver))
