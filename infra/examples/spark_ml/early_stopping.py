"""Early stopping: training ends when the loss of held-out rows has not become better for two epochs; the best weights stay."""

from __future__ import annotations

from typing import Any

import digits
from networks import dnn
from pyspark.ml import Pipeline
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator


def run(spark: SparkSession) -> dict[str, Any]:
    """Train with far more epochs than are of use."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(
        module=dnn,
        moduleArgs={"hidden": 64},
        learningRate=0.05,
        epochs=200,
        batchSize=64,
        validationFraction=0.2,
        earlyStoppingPatience=2,
    )
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    facts = model.stages[-1].facts
    return {
        "accuracy": digits.accuracy(model.transform(test)),
        "steps": facts["steps"],
        "best_step": facts["best_step"],
        "validation_loss": facts["validation_loss"],
    }


if __name__ == "__main__":
    digits.main(run)
