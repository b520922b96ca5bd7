"""Data steps on Spark: the same functions as in one process, over RDDs.

Python functions alone do the work: an executor's JVM only carries bytes between them. So a folder and S3 are one code path,
and a group's memory is that of its own rows.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ts4s_core.data.data_engine import split_by_group
from ts4s_core.data.formats.cell_types import DATE, DECIMAL, LIST, NOTHING, NUMBER, OBJECT, TEXT, TRUTH, WHOLE, refused_type
from ts4s_core.errors import DataError, SourceError, SparkError, Ts4sError, from_wire, listed, to_wire
from ts4s_core.spark.session.job_progress import watching

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_FAILED = -1
_CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit)\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class TablePart:
    """A partition of a Spark table, on the driver; on an executor its rows stand in its place."""

    table: str
    index: int


class SparkEngine:
    """A :class:`ts4s_core.data.data_engine.DataEngine` over a session: one task an item, one task a group.

    An error of ours on an executor comes back as itself; a foreign one is retried as Spark does, then becomes a SparkError.
    """

    def __init__(self, session: SparkSession) -> None:
        self._session = session
        self._tables: dict[str, Any] = {}

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, stage: str, tell: Callable[[int], None] | None = None
    ) -> list[Any]:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        if not items:
            return []
        with watching(self._session.sparkContext, tell):
            results = self._collect(self._items(items, _Apply(function)), stage)
        _raise_first([(index, value) for index, failed, value in results if failed])
        return [value for _, _, value in sorted(results, key=lambda result: result[0])]

    def regroup(
        self,
        items: Sequence[Any],
        read: Callable[[Any], Iterator[pa.RecordBatch]],
        *,
        groups: int,
        write: Callable[[int, pa.Table], Any],
        stage: str,
    ) -> list[Any]:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        if not items:
            return []
        grouped = self._items(items, _Read(read)).partitionBy(groups, partition_of)
        results = self._collect(grouped.mapPartitions(_Write(write)), stage)
        _raise_first([(order, value) for group, order, value in results if group == _FAILED])
        return [value for _, _, value in sorted(results, key=lambda result: result[0])]

    def table_parts(self, name: str, columns: Sequence[tuple[str, str]]) -> Sequence[TablePart]:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        from pyspark.errors import PySparkException

        try:
            table = self._session.table(name)
            there = table.columns
        except PySparkException as exc:
            reason = str(exc).splitlines()[0]
            raise SourceError(
                f"data.source {name} is no Spark table that can be read: {reason}. Give the name of a table"
            ) from exc
        missing = [(column, setting) for column, setting in columns if there.count(column) != 1]
        if missing:
            raise DataError(
                f"Table {name} has no column {listed(repr(column) for column, _setting in missing)}: "
                f"it has {listed(map(repr, there))}. Set {' and '.join(f'data.{setting}' for _column, setting in missing)}"
            )
        for column, setting in columns:
            kind = table.schema[column].dataType
            problem = refused_type(f"Table {name}", column, kind_of_spark(kind), shown=kind.simpleString(), setting=setting)
            if problem:
                raise DataError(problem)
        rows = table.select(*(table[quoted(column)] for column, _setting in columns)).rdd
        self._tables[name] = rows
        return [TablePart(name, index) for index in range(rows.getNumPartitions())]

    def _items(self, items: Sequence[Any], function: _PerItem) -> Any:
        """An RDD of what ``function`` yields for every item."""
        part = getattr(items[0], "part", None)
        if isinstance(part, TablePart):
            return self._tables[part.table].mapPartitionsWithIndex(_OnPartition(function, tuple(items)))
        return self._session.sparkContext.parallelize(list(enumerate(items)), len(items)).flatMap(function)

    def _collect(self, rdd: Any, stage: str) -> list[Any]:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            return list(rdd.collect())
        except (Py4JError, PySparkException) as exc:
            raise SparkError(f"Spark stage {stage} failed: {cause_of(str(exc))}") from exc


#: Spark's names of types, by kind; what is not here is called as Spark does.
_KINDS = {
    "string": TEXT, "char": TEXT, "varchar": TEXT, "byte": WHOLE, "short": WHOLE, "integer": WHOLE, "long": WHOLE,
    "float": NUMBER, "double": NUMBER, "decimal": DECIMAL, "boolean": TRUTH, "date": DATE, "struct": OBJECT, "void": NOTHING,
}  # fmt: skip


def kind_of_spark(kind: Any) -> str:
    """The kind of a column's cells, of its Spark type (see :mod:`ts4s_core.data.formats.cell_types`)."""
    name, shown = str(kind.typeName()).partition("(")[0], str(kind.simpleString())
    if name == "array":
        return LIST if kind_of_spark(kind.elementType) in (TEXT, WHOLE, NUMBER, DECIMAL, TRUTH, NOTHING) else shown
    return _KINDS.get(name, shown)


def quoted(column: str) -> str:
    """A column's name as Spark SQL takes it, whatever signs it has."""
    return f"`{column.replace('`', '``')}`"


def _plain(row: Any) -> tuple[Any, ...]:
    """The cells of a row; a struct as an object."""
    return tuple(cell.asDict(recursive=True) if hasattr(cell, "asDict") else cell for cell in row)


def cause_of(text: str) -> str:
    """The Python error inside what Spark reports, without its traceback; else the report's first line."""
    found = _CAUSE.findall(text.partition("Traceback (most recent call last)")[2])
    if found:
        return str(found[0]).strip()
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def partition_of(group: int) -> int:
    """The partition of a group: itself; errors travel to the first one."""
    return max(group, 0)


def _raise_first(failures: Sequence[tuple[int, dict[str, str]]]) -> None:
    if failures:
        raise from_wire(min(failures, key=lambda failure: failure[0])[1])


_PerItem = Callable[[tuple[int, Any]], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class _OnPartition:
    """Give a table's partition to ``function`` as the item with that number."""

    function: _PerItem
    items: tuple[Any, ...]

    def __call__(self, index: int, rows: Iterator[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        return self.function((index, dataclasses.replace(self.items[index], part=map(_plain, rows))))


@dataclass(frozen=True)
class _Apply:
    """(item number, whether it failed, result or error)."""

    function: Callable[[Any], Any]

    def __call__(self, numbered: tuple[int, Any]) -> Iterable[tuple[int, bool, Any]]:
        index, item = numbered
        _settle_worker()
        try:
            return [(index, False, self.function(item))]
        except Ts4sError as exc:
            return [(index, True, to_wire(exc))]


@dataclass(frozen=True)
class _Read:
    """(group, Arrow stream) for every group in every batch of an item; an error is (-1, (item number, error))."""

    read: Callable[[Any], Iterator[pa.RecordBatch]]

    def __call__(self, numbered: tuple[int, Any]) -> Iterator[tuple[int, Any]]:
        index, item = numbered
        _settle_worker()
        try:
            for batch in self.read(item):
                for group, rows in split_by_group(batch):
                    yield group, _stream(rows)
        except Ts4sError as exc:
            yield _FAILED, (index, to_wire(exc))


@dataclass(frozen=True)
class _Write:
    """(group, 0, result) of each group in a partition, or (-1, order, error)."""

    write: Callable[[int, pa.Table], Any]

    def __call__(self, records: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, int, Any]]:
        _settle_worker()
        tables: dict[int, list[pa.Table]] = {}
        failures = []
        for group, value in records:
            if group == _FAILED:
                failures.append(value)
            else:
                tables.setdefault(group, []).append(pa.ipc.open_stream(value).read_all())
        if failures:
            yield from ((_FAILED, index, error) for index, error in failures)
            return
        for group in sorted(tables):
            try:
                yield group, 0, self.write(group, pa.concat_tables(tables.pop(group)))
            except Ts4sError as exc:
                yield _FAILED, group, to_wire(exc)


def _settle_worker() -> None:
    """What a process of Spark's needs before its first task.

    A tokenizer would start a thread for every core of the host, in every task; and PySpark collects garbage after each task,
    which looks at all modules' objects each time unless they are frozen.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    if not gc.get_freeze_count():
        gc.freeze()


def _stream(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())
