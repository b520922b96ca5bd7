"""TorchEstimator in whole programs: tuning, the examples, a cluster whose executors lack the network's module."""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from digit_networks import network
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder, TrainValidationSplit
from spark_cluster import SparkCluster

from ts4s_core.spark import TorchEstimator


# PySpark leaves the threads of its parallel fits to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
@pytest.mark.long
def test_cross_validation_finds_the_better_rate(spark: Any, digits: Any, tmp_path: Path) -> None:
    train = digits.where("number < 500").select("features", "label")
    estimator = TorchEstimator(module=network(), epochs=4, batchSize=32, workers=1)
    grid = ParamGridBuilder().addGrid(estimator.learningRate, [1e-5, 0.02]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    validator = CrossValidator(
        estimator=Pipeline(stages=[estimator]), estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2, seed=3
    )
    found = validator.fit(train)
    assert found.avgMetrics[1] > 0.8 > found.avgMetrics[0]
    found.save(f"file://{tmp_path}/validated")
    loaded = CrossValidatorModel.load(f"file://{tmp_path}/validated")
    assert loaded.bestModel.stages[0].weights_sha256 == found.bestModel.stages[0].weights_sha256
    assert loaded.getEstimator().getStages()[0].getModule() == estimator.getModule()
    # The estimator comes back with the weights that it starts from.
    assert loaded.getEstimator().getStages()[0].start().weights_sha256() == estimator.start().weights_sha256()
    split = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, trainRatio=0.7, seed=3)
    assert split.fit(train).validationMetrics[1] > 0.8
    gc.collect()


EXAMPLES = {
    "simple_dnn": lambda found: found["accuracy"] > 0.93,
    "cnn": lambda found: found["accuracy"] > 0.95,
    "lazy_load": lambda found: found["accuracy"] > 0.93 and found["hidden"] == 48,
    "autoencoder": lambda found: found["explained_variance"] > 0.6,
    "early_stopping": lambda found: found["accuracy"] > 0.93 and found["best_step"] < found["steps"] < 2_000,
    "pipeline_save_and_load": lambda found: found["accuracy"] > 0.93 and found["same"],
    "pretrained_inference": lambda found: found["accuracy"] > 0.9 and found["same"],
    "vector_out": lambda found: found["accuracy"] > 0.9 and found["numbers"] == 10 and found["largest_difference"] < 1e-6,
    "hogwild": lambda found: found["accuracy"] > 0.9,
}


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_learn(spark: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "infra" / "examples" / "spark_ml"))
    found = importlib.import_module(name).run(spark)
    assert EXAMPLES[name](found), found


@pytest.mark.stack
def test_a_cluster_gives_the_same_weights(tmp_path: Path) -> None:
    """A program of its own, on a real standalone cluster whose executors do not have the network's module."""
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
from ts4s_core.spark.session.java import find_java

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
