"""An autoencoder: no label column, so that each row is its own label; the prediction is a vector."""

from __future__ import annotations

from typing import Any

import digits
import numpy as np
from networks import AutoEncoder
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train on one part of the digits; how much of the other part's variance comes back."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(
        module=AutoEncoder(code=12), labelCol=None, loss="MSELoss", learningRate=0.005, epochs=60, batchSize=64
    )
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train.drop("label"))
    rows = model.transform(test).select("features", "prediction").collect()
    before, after = (np.array([row[name].toArray() for row in rows]) for name in ("features", "prediction"))
    return {"explained_variance": 1 - float(((before - after) ** 2).sum() / ((before - before.mean(axis=0)) ** 2).sum())}


if __name__ == "__main__":
    digits.main(run)
