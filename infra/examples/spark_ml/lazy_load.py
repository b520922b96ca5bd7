"""A network that only the workers build: the driver knows its import path and arguments, and never its weights' size."""

from __future__ import annotations

from typing import Any

import digits
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train on one part of the digits, predict the other."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(
        module="networks:dnn",
        moduleArgs={"hidden": 48},
        optimizer="SGD",
        optimizerArgs={"momentum": 0.9},
        learningRate=0.1,
        epochs=20,
        batchSize=64,
    )
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    return {"accuracy": digits.accuracy(model.transform(test)), "hidden": model.stages[-1].to_torch()[0].out_features}


if __name__ == "__main__":
    digits.main(run)
