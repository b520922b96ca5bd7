"""scikit-learn's handwritten digits as a Spark table: columns ``p0`` .. ``p63`` from 0 to 1, and ``label``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from sklearn.datasets import load_digits

from ts4s_core.spark.session.java import find_java

PIXELS = [f"p{number}" for number in range(64)]


def session() -> SparkSession:
    """A local session; where there is no Java, with the one that ts4s brings."""
    os.environ.update(find_java().environment(os.environ))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )


def train_and_test(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    """About 1,440 and 360 digits; which is where hangs on a digit's number in the data set."""
    pixels, labels = load_digits(return_X_y=True)
    rows = [
        (*(pixel / 16).tolist(), float(label), number) for number, (pixel, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    table = spark.createDataFrame(rows, [*PIXELS, "label", "number"])
    return table.where("number % 5 != 0").drop("number"), table.where("number % 5 = 0").drop("number")


def assembler() -> VectorAssembler:
    """The pixels as one vector, ``features``."""
    return VectorAssembler(inputCols=PIXELS, outputCol="features")


def accuracy(predicted: DataFrame) -> float:
    """Share of the rows whose prediction is their label."""
    return predicted.where("prediction = label").count() / predicted.count()


def main(run: Callable[[SparkSession], dict[str, Any]]) -> None:
    """Run an example in a session of its own."""
    spark = session()
    try:
        for name, value in run(spark).items():
            print(f"{name}: {value}")
    finally:
        spark.stop()
