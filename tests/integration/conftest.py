"""One real Spark session a module of tests, and scikit-learn's digits as a table in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from spark_sessions import own_sessions

from ts4s_core.settings import SparkSettings
from ts4s_core.spark.session.sessions import SessionPlan


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    plan = SessionPlan(SparkSettings(master="local[4]"), 1, tmp_path_factory.mktemp("spark"))
    with own_sessions() as sessions:
        yield sessions.get(plan)


@pytest.fixture(scope="module")
def digits(spark: Any) -> Any:
    """Columns features (a vector), pixels (an array), label, name (a string) and number."""
    from pyspark.ml.functions import array_to_vector
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rows = [
        ((pixel / 16).tolist(), float(label), "abcdefghij"[label], number)
        for number, (pixel, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    table = spark.createDataFrame(rows, ["pixels", "label", "name", "number"]).withColumn("features", array_to_vector("pixels"))
    return table.cache()
