"""``ts4s environment pack``: a cluster whose hosts have a bare Python trains and predicts by the archive."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spark_cluster import SparkCluster

BARE = Path(sys.base_prefix) / "bin"
pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]


def test_bare_executors_train_and_predict(
    ts4s: Callable[..., Any], model_flags: list[str], learning_flags: list[str], tsv: Path, tmp_path: Path
) -> None:
    for library in ("torch", "pyarrow", "ts4s_core"):
        bare = subprocess.run([BARE / "python3.11", "-P", "-c", f"import {library}"], capture_output=True, text=True)
        assert f"No module named '{library}'" in bare.stderr
    packed = ts4s("environment", "pack", "--to", str(tmp_path / "env.tar.gz"), "--json", timeout_s=900)
    assert packed.code == 0, packed.err
    conf = packed.json["conf"]
    assert isinstance(conf, list)

    train = ["retrain", "--name", "bare", *model_flags, *learning_flags, "--data.source", str(tsv), "--json"]
    environ = {"PATH": f"{BARE}:/usr/bin:/bin", "PYTHONPATH": "", "VIRTUAL_ENV": ""}
    with SparkCluster(tmp_path / "hosts", workers=2, environ=environ) as cluster:
        on_spark = ["--spark.master", cluster.url, *(word for pair in [*cluster.conf, *conf] for word in ("--spark.conf", pair))]
        store = ["--storage.uri", str(tmp_path / "store")]
        trained = ts4s(*train, *store, *on_spark, timeout_s=900)
        assert trained.code == 0, trained.err[-4_000:]
        assert (trained.json["status"], trained.json["promoted"]) == ("done", True)
        output = str(tmp_path / "predictions")
        source = ["--data.source", str(tsv), "--output", output, "--json"]
        predicted = ts4s("predict", "--model", "bare@champion", *source, *store, *on_spark, timeout_s=600)
        assert predicted.code == 0, predicted.err[-4_000:]
        assert predicted.json["rows"] == 300
        unpacked = {path.parents[1].name for path in (tmp_path / "hosts").rglob("bin/python")}
        assert unpacked == {"env"}

    local = ts4s(*train, "--storage.uri", str(tmp_path / "local"), "--spark.master", "none", timeout_s=600)
    assert local.json["weights_sha256"] == trained.json["weights_sha256"]
