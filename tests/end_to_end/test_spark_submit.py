"""A whole retraining by one ``spark-submit`` in client mode, on a real standalone cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from spark_cluster import SparkCluster

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings

PROGRAM = Path(__file__).parents[2] / "infra" / "examples" / "spark_submit" / "ts4s_flow.py"
SUBMIT = Path(sys.prefix) / "bin" / "spark-submit"
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cluster's workers write."""
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def submit(hosts: Path) -> Iterator[list[str]]:
    python = {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(PROGRAM.parents[3])}
    with SparkCluster(hosts, workers=2, environ=python) as cluster:
        conf = [word for pair in cluster.conf for word in ("--conf", pair)]
        yield [str(SUBMIT), "--master", cluster.url, *conf, str(PROGRAM)]


def run(submit: list[str], *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    return subprocess.run([*submit, *words], capture_output=True, text=True, timeout=600, env=environ, cwd=folder)


def test_one_submit_ends_in_a_registry_entry(
    submit: list[str], hosts: Path, model_flags: list[str], learning_flags: list[str], tsv: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    flags = ["--name", "news", *model_flags, *learning_flags, "--data.source", str(tsv), "--storage.uri", str(store), "--json"]
    done = run(submit, "retrain", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-4_000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["status"], result["promoted"], result["train"]["steps"]) == ("done", True, 30), done.stdout[-3_000:]
    assert len({folder.name for folder in hosts.rglob("app-*") if folder.is_dir()}) == 1
    assert Registry(ArtifactStore.open(StorageSettings(uri=str(store)))).alias("news") == result["version"]

    local = subprocess.run(
        [sys.executable, "-m", "flows.cli", "retrain", *flags[:-3], "--storage.uri", str(tmp_path / "local"), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TS4S_SPARK__MASTER": "none", "HF_HUB_OFFLINE": "1"},
    )
    assert json.loads(local.stdout.splitlines()[-1])["weights_sha256"] == result["weights_sha256"]


def test_bad_input_ends_the_application_with_exit_2(submit: list[str], tmp_path: Path) -> None:
    done = run(submit, "retrain", "--data.source", "nowhere.tsv", "--storage.uri", str(tmp_path / "store"), folder=tmp_path)
    assert done.returncode == 2, done.stdout[-2_000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "nowhere.tsv does not exist" in lines[0]
    assert not (tmp_path / "store").exists()
