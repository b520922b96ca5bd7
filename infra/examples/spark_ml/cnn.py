"""A convolutional network with batch normalisation and dropout: each row's vector is given the shape of an image."""

from __future__ import annotations

from typing import Any

import digits
from networks import Cnn
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train on one part of the digits, predict the other."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(
        module=Cnn(channels=8), inputShape=[1, 8, 8], optimizer="Adam", learningRate=0.01, epochs=8, batchSize=64, workers=2
    )
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    return {"accuracy": digits.accuracy(model.transform(test))}


if __name__ == "__main__":
    digits.main(run)
