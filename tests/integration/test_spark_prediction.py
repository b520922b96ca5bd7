"""Prediction on a real Spark: the job, a table as its source, the function for Spark SQL, a whole DataFrame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.errors import DataError
from ts4s_core.prediction.job import predict
from ts4s_core.prediction.options import PredictOptions
from ts4s_core.settings import SparkSettings
from ts4s_core.spark.execution.data_engine import SparkEngine
from ts4s_core.spark.prediction import predict_frame, predict_udf
from ts4s_core.spark.session.sessions import SessionPlan, start_session


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    session = start_session(SessionPlan(SparkSettings(master="local[2]"), 1, tmp_path_factory.mktemp("spark")))
    yield session
    session.stop()


def run(tiny_models: Any, engine: Any, output: Path, *, told: list[Any] | None = None, errors: Any = "mark", **data: Any) -> Any:
    settings = tiny_models.settings("roberta")
    given = settings.data.model_copy(update=data)
    heard = [] if told is None else told
    return predict(
        settings.model_copy(update={"data": given}),
        tiny_models.store,
        engine,
        model=tiny_models.trained("roberta"),
        options=PredictOptions(output=str(output), errors=errors),
        slots=2,
        progress=lambda stage, fields: heard.append((stage, dict(fields))),
    )


def test_spark_gives_what_one_process_gives(
    spark: Any, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts4s_core.prediction import source_rows as reading

    monkeypatch.setattr(reading, "LEAST_SPLIT_BYTES", 600)
    lines = [f"w{5 + number % 190} w{5 + number * 7 % 190} w9" for number in range(300)]
    (tmp_path / "rows.tsv").write_bytes("".join(f"{line}\n" for line in lines).encode() + b"\xff\n")
    told: list[Any] = []
    result = run(tiny_models, SparkEngine(spark), tmp_path / "spark", told=told, source=str(tmp_path / "rows.tsv"))
    run(tiny_models, LocalEngine(), tmp_path / "local", source=str(tmp_path / "rows.tsv"))
    assert (result["rows"], result["errors"]) == (301, 1)
    ours, theirs = (pq.read_table(tmp_path / name).to_pydict() for name in ("spark", "local"))
    assert ours == theirs
    assert ours["text"][:300] == lines
    assert told[-1][1]["split"] == told[-1][1]["splits"] > 5
    with pytest.raises(DataError, match=r"not UTF-8\. Correct it"):
        run(tiny_models, SparkEngine(spark), tmp_path / "none", errors="refuse", source=str(tmp_path / "rows.tsv"))
    assert not (tmp_path / "none").exists()


def test_a_table_a_function_and_a_frame(spark: Any, tiny_models: Any, tmp_path: Path) -> None:
    rows = [(1, "w5 w6"), (2, None), (3, "w9 w10 w11"), (4, " ")]
    frame = spark.createDataFrame(rows, "key int, text string").repartition(2)
    frame.createOrReplaceTempView("texts")
    run(tiny_models, SparkEngine(spark), tmp_path / "out", source="texts", format="table", id_column="key")
    table = {row["id"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert {key: row["error"] for key, row in table.items()} == {"1": None, "2": "null text", "3": None, "4": "empty text"}

    ref, storage = tiny_models.trained("roberta"), tiny_models.settings("roberta").storage
    model = f"roberta@{ref.version}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyspark's own, of pandas and type hints
        answer = predict_udf(spark, model, storage=storage)
        found = {row.key: row.answer for row in frame.select("key", answer("text").alias("answer")).collect()}
        spark.udf.register("embedded", predict_udf(spark, model, storage=storage, embeddings="mean"))
        sizes = {row[0]: row[1] for row in spark.sql("select key, size(embedded(text).embedding) from texts").collect()}
    whole = {row.key: row for row in predict_frame(frame, model, storage=storage).collect()}
    assert sizes == {1: 32, 2: None, 3: 32, 4: None}
    for key, row in table.items():
        assert found[int(key)].label == whole[int(key)].label == row["label"]
        assert found[int(key)].error == whole[int(key)].error == row["error"]
        assert whole[int(key)].model_version == ref.version
        if row["label"] is not None:
            assert found[int(key)].probabilities.asDict() == pytest.approx(row["probabilities"], abs=1e-5)
    with pytest.raises(DataError, match="expected a column 'body'"):
        predict_frame(frame, model, storage=storage, text_column="body")


def test_names_of_columns_are_the_sessions(spark: Any, tiny_models: Any, tmp_path: Path) -> None:
    model, storage = f"roberta@{tiny_models.trained('roberta').version}", tiny_models.settings("roberta").storage
    frame = spark.createDataFrame([(1, "w5 w6"), (2, "w9 w10")], "id int, text string")
    answers = [(row.id, row.label) for row in predict_frame(frame, model, storage=storage).orderBy("id").collect()]
    odd = frame.selectExpr("id as `user.id`", "text as `doc``s.text`", "named_struct('id', id) as user")
    found = predict_frame(odd, model, storage=storage, text_column="doc`s.text")
    assert found.columns[:3] == ["user.id", "doc`s.text", "user"]
    assert [(row["user.id"], row["label"]) for row in found.orderBy("`user.id`").collect()] == answers
    assert [row[0] for row in found.selectExpr("user.id").orderBy("id").collect()] == [1, 2]
    twice = frame.selectExpr("id", "id", "text")
    assert [row[3] for row in predict_frame(twice, model, storage=storage).collect()] == [label for _id, label in answers]
    with pytest.raises(DataError, match="of which the session takes 'Label' for new ones"):
        predict_frame(frame.selectExpr("*", "'x' as Label"), model, storage=storage)
    assert predict_frame(frame, model, storage=storage, text_column="TEXT").count() == 2
    with pytest.raises(DataError, match=r"The DataFrame has column 'id' of type int: expected text\. Set data\.text_column"):
        predict_frame(frame, model, storage=storage, text_column="id")
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        both = predict_frame(frame.selectExpr("*", "'x' as Label"), model, storage=storage)
        assert [(row["id"], row["Label"], row["label"]) for row in both.orderBy("id").collect()] == [
            (number, "x", label) for number, label in answers
        ]
        both.write.parquet(str(tmp_path / "both"))
        with pytest.raises(DataError, match="expected a column 'TEXT'"):
            predict_frame(frame, model, storage=storage, text_column="TEXT")
    finally:
        spark.conf.unset("spark.sql.caseSensitive")
