"""Vectors out: logits and probabilities of a classifier, and a network whose label and prediction are vectors."""

from __future__ import annotations

from typing import Any

import digits
import numpy as np
from pyspark.ml import Pipeline
from pyspark.ml.feature import OneHotEncoder
from pyspark.sql import SparkSession
from torch import nn

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """One of ten, as ten numbers between 0 and 1."""
    train, test = digits.train_and_test(spark)
    one_hot = OneHotEncoder(inputCol="label", outputCol="target", dropLast=False)
    estimator = TorchEstimator(
        module=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        labelCol="target",
        loss=nn.BCEWithLogitsLoss(),
        rawPredictionCol=None,
        probabilityCol="shares",
        learningRate=0.01,
        epochs=15,
        batchSize=64,
    )
    model = Pipeline(stages=[digits.assembler(), one_hot, estimator]).fit(train)
    rows = model.transform(test).select("label", "prediction", "shares").collect()
    labels, logits, shares = (np.array([np.ravel(row[name]) for row in rows]) for name in ("label", "prediction", "shares"))
    return {
        "accuracy": float((logits.argmax(axis=1) == labels[:, 0]).mean()),
        "numbers": logits.shape[1],
        "largest_difference": float(np.abs(1 / (1 + np.exp(-logits)) - shares).max()),
    }


if __name__ == "__main__":
    digits.main(run)
