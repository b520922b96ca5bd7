"""TorchEstimator on a standalone cluster of its own gives the weights that it gives in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.stack
def test_a_cluster_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of its own, on a real standalone cluster whose executors do not have the network's module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from spark_cluster import SparkCluster

    (tmp_path / "program").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "program" / "network_of_a_cluster.py").write_text(NETWORK_OF_A_CLUSTER)
    (tmp_path / "program" / "program.py").write_text(PROGRAM_OF_A_CLUSTER)
    with SparkCluster(tmp_path / "cluster", workers=2) as cluster:
        hashes = []
        for master, conf in ((cluster.url, cluster.conf), ("local[1]", [])):
            done = subprocess.run(
                [sys.executable, str(tmp_path / "program" / "program.py"), master, str(tmp_path / "scratch"), *conf],
                capture_output=True,
                text=True,
                timeout=280,
                check=False,
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr[-3_000:]
            hashes.append(json.loads(done.stdout.splitlines()[-1]))
    assert hashes[0]["workers"] == 2
    assert hashes[1]["workers"] == 1
    assert hashes[0]["weights_sha256"] == hashes[1]["weights_sha256"]
    assert hashes[0]["accuracy"] == hashes[1]["accuracy"] > 0.8
    assert os.listdir(tmp_path / "scratch") == []


NETWORK_OF_A_CLUSTER = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.layers(x)
"""

PROGRAM_OF_A_CLUSTER = """
import json, os, sys
from network_of_a_cluster import Net
from sklearn.datasets import load_digits
from ts4s_core.spark import TorchEstimator
from ts4s_core.spark.java import find_java

def main():
    from pyspark.sql import SparkSession
    os.environ.update(find_java().environment(os.environ))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false")
    for pair in sys.argv[3:]:
        builder = builder.config(*pair.split("=", 1))
    spark = builder.getOrCreate()
    pixels, labels = load_digits(return_X_y=True)
    rows = [((pixel / 16).tolist(), float(label)) for pixel, label in zip(pixels[:400], labels[:400])]
    table = spark.createDataFrame(rows, ["features", "label"])
    estimator = TorchEstimator(module=Net, moduleArgs={"hidden": 24}, epochs=8, learningRate=0.02, scratchUri=sys.argv[2])
    model = estimator.setLogicalShards(2).fit(table)
    right = model.transform(table).where("prediction = label").count()
    print(json.dumps({**model.facts, "weights_sha256": model.weights_sha256, "accuracy": right / 400}))
    spark.stop()

if __name__ == "__main__":
    main()
"""
