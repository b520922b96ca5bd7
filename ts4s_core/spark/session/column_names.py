"""Names of columns as a session compares and writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def quoted(column: str) -> str:
    """A column's name as Spark SQL takes it, whatever signs it has: ``user.id`` is no field of a struct."""
    return f"`{column.replace('`', '``')}`"


def alike(session: SparkSession, names: Iterable[str], wanted: str) -> list[str]:
    """Those of some columns that the session takes for one of this name: by ``spark.sql.caseSensitive``, off by default."""
    if str(session.conf.get("spark.sql.caseSensitive", "false")).lower() == "true":
        return [name for name in names if name == wanted]
    return [name for name in names if name.lower() == wanted.lower()]
