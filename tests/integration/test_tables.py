"""Queries, a database (Derby, which comes with Spark's own jars) and tables of predictions, in one real session."""

from __future__ import annotations

from typing import Any

import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.scan import Scan, scan
from ts4s_core.errors import ConflictError, DataError, SettingsError, SourceError
from ts4s_core.prediction.job import predict
from ts4s_core.prediction.options import PredictOptions
from ts4s_core.settings import Settings
from ts4s_core.spark.execution.data_engine import SparkEngine

ROWS = [(number, ("north", "south")[number % 2], f"the text number {number}") for number in range(120)]
USER, PASSWORD = "reader", "planted-hush"


@pytest.fixture(scope="module")
def engine(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> SparkEngine:
    frame = spark.createDataFrame(ROWS, "number int, label string, text string").repartition(3)
    frame.createOrReplaceTempView("rows")
    properties = {
        "derby.stream.error.file": str(tmp_path_factory.mktemp("derby") / "log"),
        "derby.connection.requireAuthentication": "true",
        f"derby.user.{USER}": PASSWORD,
    }
    for name, value in properties.items():
        spark._jvm.java.lang.System.setProperty(name, value)
    return SparkEngine(spark)


@pytest.fixture(scope="module")
def database(spark: Any, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    address = f"jdbc:derby:{tmp_path_factory.mktemp('database') / 'news'}"
    login = {"user": USER, "password": PASSWORD}
    spark.table("rows").coalesce(1).write.format("jdbc").options(url=f"{address};create=true", dbtable="news", **login).save()
    return address


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDBC_USER", USER)
    monkeypatch.setenv("JDBC_PASSWORD", PASSWORD)


def scanned(engine: Any, **data: Any) -> Scan:
    return scan(Settings(name="demo", data=data), engine)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of the rows as a file has them."""
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    path.write_text("".join(f"{label}\t{text}\n" for _number, label, text in ROWS), encoding="utf-8")
    return scanned(LocalEngine(), source=str(path)).fingerprint


def test_a_query_is_read_by_the_session(engine: SparkEngine, expected: str) -> None:
    query = "SELECT upper(label) AS LABEL, text FROM rows WHERE number < 120 -- all of them\n;"
    found = scanned(engine, format="sql", source=query)
    assert (found.rows, found.labels) == (120, ("NORTH", "SOUTH"))
    assert scanned(engine, format="sql", source="WITH all AS (TABLE rows) SELECT * FROM all").fingerprint == expected


@pytest.mark.parametrize("command", ["DROP VIEW rows", "CREATE TABLE made (x int)", "SELECT 1; DROP VIEW rows", "SELEC label"])
def test_what_is_no_query_is_not_carried_out(spark: Any, engine: SparkEngine, command: str) -> None:
    with pytest.raises(SourceError, match="is not a query of Spark SQL that can be read"):
        scanned(engine, format="sql", source=command)
    assert spark.catalog.tableExists("rows")
    assert not spark.catalog.tableExists("made")


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize(
    "data",
    [
        {"query": "news"},
        {"query": 'SELECT "label", "text" FROM news WHERE "number" >= 0;'},
        {
            "query": "news",
            "options": ("partitionColumn=number", "lowerBound=0", "upperBound=120", "numPartitions=3", "fetchsize=50"),
        },
    ],
    ids=["table", "query", "partitions"],
)
def test_a_database_is_read_with_the_login_of_the_environment(
    engine: SparkEngine, database: str, expected: str, data: dict[str, Any]
) -> None:
    found = scanned(engine, format="jdbc", source=database, **data)
    assert found.fingerprint == expected
    assert len(found.source.splits) == (3 if "options" in data else 1)
    assert PASSWORD not in repr(found)


def test_a_database_that_refuses_is_one_line_without_the_login(
    engine: SparkEngine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=r"is not a jdbc source that can be read: .*JDBC_USER and JDBC_PASSWORD"):
        scanned(engine, format="jdbc", source=database, query="news")
    monkeypatch.setenv("JDBC_USER", USER)
    monkeypatch.setenv("JDBC_PASSWORD", "wr0ng-one")
    with pytest.raises(SourceError) as refused:
        scanned(engine, format="jdbc", source=database, query="news")
    assert "wr0ng-one" not in str(refused.value)
    monkeypatch.setenv("JDBC_PASSWORD", PASSWORD)
    with pytest.raises(SourceError, match="is not a jdbc source"):
        scanned(engine, format="jdbc", source=database, query="nowhere")
    with pytest.raises(DataError, match="has no column 'body'"):
        scanned(engine, format="jdbc", source=database, query="news", text_column="body")


@pytest.mark.parametrize(
    ("data", "package"),
    [
        ({"format": "delta", "source": "/tables/news"}, "io.delta:delta-spark"),
        ({"format": "iceberg", "source": "/tables/news"}, "org.apache.iceberg:iceberg-spark-runtime"),
        ({"format": "jdbc", "source": "jdbc:nosuch://host/db", "query": "news"}, "the driver of the database"),
    ],
)
def test_a_package_that_spark_lacks_is_named(engine: SparkEngine, data: dict[str, Any], package: str) -> None:
    with pytest.raises(SourceError, match=rf"cannot be read by this Spark: expected {package}.*spark\.jars"):
        scanned(engine, **data)


def predicted(tiny_models: Any, engine: Any, output: str, **given: Any) -> dict[str, Any]:
    settings = tiny_models.settings("roberta")
    data = settings.data.model_copy(update={"source": "SELECT text, number FROM rows", "format": "sql", "id_column": "number"})
    return predict(
        settings.model_copy(update={"data": data}),
        tiny_models.store,
        engine,
        model=tiny_models.trained("roberta"),
        options=PredictOptions(output=output, **given),
        slots=2,
    )


def test_predictions_become_a_table(spark: Any, engine: SparkEngine, tiny_models: Any) -> None:
    made = predicted(tiny_models, engine, "table:answers")
    assert (made["output"], made["rows"], made["errors"]) == ("table:answers", 120, 0)
    assert made["artifact"].startswith("predictions/roberta/")
    rows = spark.table("answers").orderBy(spark.table("answers").id.cast("int")).collect()
    assert [(row.id, row.text) for row in rows] == [(str(number), text) for number, _label, text in ROWS]
    assert {row.label for row in rows} <= set(rows[0].probabilities.asDict())
    assert all(abs(sum(row.probabilities.asDict().values()) - 1) < 1e-5 for row in rows)

    before = tiny_models.store.versions("predictions", "roberta")
    with pytest.raises(ConflictError, match="--output table:answers already exists"):
        predicted(tiny_models, engine, "table:answers")
    with pytest.raises(SourceError, match=r"--output table:nowhere\.at\.all"):
        predicted(tiny_models, engine, "table:nowhere.at.all")
    assert tiny_models.store.versions("predictions", "roberta") == before
    vectors = predicted(tiny_models, engine, "table:vectors", embeddings="mean")
    assert vectors["rows"] == spark.table("vectors").count() == 120
    assert {len(row.embedding) for row in spark.table("vectors").collect()} == {32}


def test_tables_that_cannot_be_are_refused(tiny_models: Any) -> None:
    with pytest.raises(SettingsError, match="names no table: expected table:NAME"):
        PredictOptions(output="table:")
    with pytest.raises(SettingsError, match="--form vectors is text"):
        PredictOptions(output="table:x", form="vectors", embeddings="mean")
    with pytest.raises(SettingsError, match=r"--output table:x needs Spark"):
        predicted(tiny_models, LocalEngine(), "table:x")
