"""Tables and queries that Spark reads, and the one that predictions go to: by the session as it is, whatever its catalogs are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ts4s_core.data.data_engine import TableSource
from ts4s_core.errors import ConflictError, SourceError, Ts4sError
from ts4s_core.settings.spark_conf import by_name
from ts4s_core.spark.session.cluster import job_failures
from ts4s_core.spark.session.failures import first_cause

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: The login of a database; in no setting, because settings are recorded.
JDBC_USER, JDBC_PASSWORD = "JDBC_USER", "JDBC_PASSWORD"
#: What Spark needs for a format that it does not bring.
_PACKAGES = {
    "delta": "io.delta:delta-spark, and spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
    "iceberg": "org.apache.iceberg:iceberg-spark-runtime of Spark's version",
    "jdbc": "the driver of the database, as in org.postgresql:postgresql",
}
_ABSENT = re.compile(r"DATA_SOURCE_NOT_FOUND|Failed to find (the )?data source|ClassNotFoundException|No suitable driver")
_NAME = re.compile(r'[\w."`\[\]$]+\Z')


def open_table(session: SparkSession, source: TableSource) -> DataFrame:
    """The rows of a table or a query; nothing but its columns is looked at.

    Raises:
        SourceError: if it cannot be read, or Spark lacks the package for it.
    """
    try:
        frame = _frame(session, source)
        frame.columns  # noqa: B018  a client of Spark Connect asks only now
    except job_failures() as exc:
        raise SourceError(_why(source, exc)) from exc
    return frame


def _frame(session: SparkSession, source: TableSource) -> DataFrame:
    if source.kind == "table":
        return session.table(source.name)
    if source.kind == "sql":
        # In parentheses a command, which would be carried out at once, does not parse.
        return session.sql(f"SELECT * FROM (\n{source.name.strip().rstrip(';')}\n)")
    reader = session.read.format(source.kind).options(**by_name(source.options))
    if source.kind != "jdbc":
        return reader.load(source.name)
    query = source.query.strip().rstrip(";")
    reader = reader.option("url", source.name).option("dbtable", query if _NAME.match(query) else f"({query}) ts4s_rows")
    for name, variable in (("user", JDBC_USER), ("password", JDBC_PASSWORD)):
        if os.environ.get(variable):
            reader = reader.option(name, os.environ[variable])
    return reader.load()


def _why(source: TableSource, exc: Exception) -> str:
    needed = _PACKAGES.get(source.kind)
    if needed is not None and _ABSENT.search(str(exc)):
        return (
            f"data.source {source.name} with data.format {source.kind} cannot be read by this Spark: expected {needed}, in "
            f"spark.conf spark.jars.packages or spark.jars, got none ({first_cause(exc)})"
        )
    wanted = {
        "table": "the name of a table",
        "sql": "a query, as in SELECT label, text FROM news",
        "jdbc": f"data.query with a query or a table, and the login, if it wants one, in {JDBC_USER} and {JDBC_PASSWORD}",
    }.get(source.kind, f"the folder of a table of {source.kind}")
    noun = {"table": "a Spark table", "sql": "a query of Spark SQL"}.get(source.kind, f"a {source.kind} source")
    return f"data.source {source.name} is not {noun} that can be read: {first_cause(exc)}. Give {wanted}"


def check_new_table(session: SparkSession, name: str) -> None:
    """Make sure that a table can be made.

    Raises:
        ConflictError: if there is one of that name.
        SourceError: if its catalog or database is not there.
    """
    try:
        there = session.catalog.tableExists(name)
    except job_failures() as exc:
        raise SourceError(f"--output table:{name} cannot be made: {first_cause(exc)}. Give the name of a new table") from exc
    if there:
        raise ConflictError(f"--output table:{name} already exists: expected the name of a new table. Choose another")


def write_table(
    session: SparkSession, name: str, items: Sequence[Any], read: Callable[[Any], Iterator[pa.RecordBatch]], schema: pa.Schema
) -> None:
    """Make a table of what ``read`` yields for every item, a task each; it appears whole, as its catalog does that.

    Raises:
        ConflictError: if there is one of that name by now.
        SparkError: if it cannot be written.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    taken = tuple(items)

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield from read(taken[index])

    frame = session.range(0, len(taken), 1, max(1, len(taken))).mapInArrow(rows, from_arrow_schema(schema))
    try:
        frame.write.mode("error").saveAsTable(name)
    except job_failures() as exc:
        if "ALREADY_EXISTS" in str(exc):
            raise ConflictError(
                f"--output table:{name} already exists: expected the name of a new table. Choose another"
            ) from exc
        raise Ts4sError(f"--output table:{name} cannot be written: {first_cause(exc)}") from exc
