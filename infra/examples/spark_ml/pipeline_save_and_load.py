"""A fitted pipeline is saved, loaded and used as any other of Spark's; nothing of it has to be unwrapped."""

from __future__ import annotations

import tempfile
from typing import Any

import digits
from networks import Cnn
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession

from ts4s_core.spark import TorchEstimator, trust


def run(spark: SparkSession) -> dict[str, Any]:
    """Predictions before and after."""
    train, test = digits.train_and_test(spark)
    estimator = TorchEstimator(module=Cnn, inputShape=[1, 8, 8], learningRate=0.01, epochs=6, batchSize=64)
    model = Pipeline(stages=[digits.assembler(), estimator]).fit(train)
    trust("networks")  # in the program that loads: the module that the saved model names may be imported
    with tempfile.TemporaryDirectory() as folder:
        path = f"file://{folder}/digits"
        model.save(path)
        model.write().overwrite().save(path)
        loaded = PipelineModel.load(path)
        before, after = (one.transform(test).select("probability").collect() for one in (model, loaded))
        return {"accuracy": digits.accuracy(loaded.transform(test)), "same": before == after}


if __name__ == "__main__":
    digits.main(run)
