"""Hogwild: workers do not wait for each other. Faster where workers are uneven; the weights are not the same every time."""

from __future__ import annotations

from typing import Any

import digits
from networks import dnn
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train on one part of the digits, predict the other."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(module=dnn, strategy="hogwild", workers=2, learningRate=0.005, epochs=20, batchSize=64)
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    return {"accuracy": digits.accuracy(model.transform(test)), **model.stages[-1].facts}


if __name__ == "__main__":
    digits.main(run)
