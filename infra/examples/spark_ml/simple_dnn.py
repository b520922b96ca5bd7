"""A network of one hidden layer, given as an object, in a pipeline."""

from __future__ import annotations

from typing import Any

import digits
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession
from torch import nn

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train on one part of the digits, predict the other."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(
        module=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        loss="CrossEntropyLoss",
        optimizer="Adam",
        learningRate=0.01,
        epochs=20,
        batchSize=64,
        workers=2,
        seed=1,
    )
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    return {"accuracy": digits.accuracy(model.transform(test)), "weights_sha256": model.stages[-1].weights_sha256}


if __name__ == "__main__":
    digits.main(run)
