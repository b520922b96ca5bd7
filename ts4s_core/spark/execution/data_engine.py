"""Data steps on Spark: the same functions as in one process, over DataFrames of items.

Python functions alone do the work, in ``mapInArrow``: an executor's JVM only carries bytes between them. So a folder and S3
are one code path, classic sessions and Spark Connect another, and a group's memory is that of its own rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ts4s_core.data.data_engine import TableSource, split_by_group
from ts4s_core.data.formats.cell_types import DATE, DECIMAL, LIST, NOTHING, NUMBER, OBJECT, TEXT, TRUTH, WHOLE, refused_type
from ts4s_core.data.formats.parquet import cells
from ts4s_core.errors import DataError, SourceError, SparkError, Ts4sError, from_wire, listed, to_wire
from ts4s_core.spark.execution.tables import check_new_table, open_table, write_table
from ts4s_core.spark.session.cluster import JobGroup, job_failures
from ts4s_core.spark.session.column_names import alike, quoted
from ts4s_core.spark.session.partition_keys import partition_keys

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_FAILED = -1
_RESULTS = "order long, failed boolean, value binary"
_ROWS_OF_GROUPS = "key int, group int, value binary"
_CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit)\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class TablePartition:
    """A partition of a Spark table, on the driver; on an executor its rows stand in its place."""

    table: TableSource
    index: int


class SparkEngine:
    """A :class:`ts4s_core.data.data_engine.DataEngine` over a session: one task an item, one task a group.

    An error of ours on an executor comes back as itself; a foreign one is retried as Spark does, then becomes a SparkError.
    """

    def __init__(self, session: SparkSession) -> None:
        self._session = session
        self._tables: dict[TableSource, DataFrame] = {}

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, stage: str, on_done: Callable[[int], None] | None = None
    ) -> list[Any]:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        if not items:
            return []
        frame = self._items(items, _Apply(function), _RESULTS)
        results = self._collect(frame, stage, on_done)
        _raise_first([(index, value) for index, failed, value in results if failed])
        found = [value for _, _, value in sorted(results, key=lambda result: result[0])]
        if len(found) != len(items):  # of a table alone: items have a partition each
            raise _other_partitions(len(items))
        return found

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
        keys = partition_keys(groups)
        grouped = self._items(items, _Read(read, keys), _ROWS_OF_GROUPS).repartition(groups, "key")
        results = self._collect(grouped.mapInArrow(_Write(write), _RESULTS), stage, None)
        _raise_first([(order, value) for order, failed, value in results if failed])
        return [value for _, _, value in sorted(results, key=lambda result: result[0])]

    def table_partitions(self, source: TableSource, columns: Sequence[tuple[str, str]]) -> Sequence[TablePartition]:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        from pyspark.sql import functions

        table = open_table(self._session, source)
        there = table.columns
        found = {column: alike(self._session, there, column) for column, _setting in columns}
        missing = [(column, setting) for column, setting in columns if len(found[column]) != 1]
        if missing:
            raise DataError(
                f"{source.shown} has no column {listed(repr(column) for column, _setting in missing)}: "
                f"it has {listed(map(repr, there))}. Set {' and '.join(f'data.{setting}' for _column, setting in missing)}"
            )
        for column, setting in columns:
            kind = table.schema[found[column][0]].dataType
            problem = refused_type(source.shown, column, kind_of_spark(kind), shown=kind.simpleString(), setting=setting)
            if problem:
                raise DataError(problem)
        rows = table.select(*(table[quoted(column)] for column, _setting in columns))
        self._tables[source] = rows
        # Without the columns, which a file's reader then leaves alone; partitions without rows count too.
        parts = rows.select(functions.lit(1).alias("one")).mapInArrow(_one_each, "one int").count()
        return [TablePartition(source, index) for index in range(parts)]

    def check_new_table(self, name: str) -> None:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        check_new_table(self._session, name)

    def write_table(
        self, name: str, items: Sequence[Any], read: Callable[[Any], Iterator[pa.RecordBatch]], schema: pa.Schema
    ) -> None:
        """See :class:`ts4s_core.data.data_engine.DataEngine`."""
        write_table(self._session, name, items, read, schema)

    def _items(self, items: Sequence[Any], function: _PerItem, schema: str) -> DataFrame:
        """What ``function`` yields for every item, a task each."""
        partition = getattr(items[0], "partition", None)
        if isinstance(partition, TablePartition):
            return self._tables[partition.table].mapInArrow(_OnPartition(function, tuple(items)), schema)
        numbers = self._session.range(0, len(items), 1, len(items))
        return numbers.mapInArrow(_OnItems(function, tuple(items)), schema)

    def _collect(self, frame: DataFrame, stage: str, on_done: Callable[[int], None] | None) -> list[Any]:
        """(order, failed, value) of every row."""
        group = JobGroup(self._session, f"ts4s-{uuid.uuid4().hex}", f"ts4s: {stage}")
        try:
            with group.begun(), group.counted(on_done) if on_done is not None else contextlib.nullcontext():
                rows = frame.collect()
        except job_failures() as exc:
            raise SparkError(f"Spark stage {stage} failed: {cause_of(str(exc))}") from exc
        carrier = _carrier()
        return [(int(row[0]), bool(row[1]), carrier.loads(bytes(row[2]))) for row in rows]


def _other_partitions(expected: int) -> SourceError:
    return SourceError(
        f"The Spark table has other partitions than a moment ago: expected {expected}. It is being written, or its query "
        "gives other partitions each time. Run again, or write it as a table first"
    )


def _carrier() -> Any:
    """How results cross from a Python worker to the driver, which are two processes of one run: as PySpark's own do."""
    from pyspark.serializers import CPickleSerializer

    return CPickleSerializer()


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


def cause_of(text: str) -> str:
    """The Python error inside what Spark reports, without its traceback; else the report's first line."""
    found = _CAUSE.findall(text.partition("Traceback (most recent call last)")[2])
    if found:
        return str(found[0]).strip()
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _raise_first(failures: Sequence[tuple[int, dict[str, str]]]) -> None:
    if failures:
        raise from_wire(min(failures, key=lambda failure: failure[0])[1])


#: What a task makes of its item: (order, whether it failed, value or error), or rows of groups.
_PerItem = Callable[[int, Any], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class _OnItems:
    """Give each item to ``function``, by the number that is the row of its task."""

    function: _PerItem
    items: tuple[Any, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        _settle_worker()
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield from self.function(index, self.items[index])


@dataclass(frozen=True)
class _OnPartition:
    """Give a table's partition to ``function`` as the item with that number."""

    function: _PerItem
    items: tuple[Any, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        _settle_worker()
        context = TaskContext.get()
        assert context is not None
        index = context.partitionId()
        if index >= len(self.items):
            yield _results([(index, True, to_wire(_other_partitions(len(self.items))))])
            return
        yield from self.function(index, dataclasses.replace(self.items[index], partition=_cells(batches)))


def _one_each(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One row for a partition, whatever it holds."""
    for _batch in batches:
        pass
    yield pa.RecordBatch.from_pydict({"one": pa.array([1], pa.int32())})


def _cells(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from zip(*map(cells, batch.columns), strict=True)


def _results(results: Sequence[tuple[int, bool, Any]]) -> pa.RecordBatch:
    carrier = _carrier()
    orders, failed, values = zip(*results, strict=True)
    columns = [pa.array(orders, pa.int64()), pa.array(failed, pa.bool_())]
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array([carrier.dumps(value) for value in values], pa.binary())], names=["order", "failed", "value"]
    )


@dataclass(frozen=True)
class _Apply:
    """(item number, whether it failed, result or error)."""

    function: Callable[[Any], Any]

    def __call__(self, index: int, item: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield _results([(index, False, self.function(item))])
        except Ts4sError as exc:
            yield _results([(index, True, to_wire(exc))])


@dataclass(frozen=True)
class _Read:
    """(key, group, Arrow stream) for every group in every batch of an item; an error is (key of 0, -1, (item number, error))."""

    read: Callable[[Any], Iterator[pa.RecordBatch]]
    keys: tuple[int, ...]

    def __call__(self, index: int, item: Any) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self.read(item):
                groups, streams = [], []
                for group, rows in split_by_group(batch):
                    groups.append(group)
                    streams.append(_stream(rows))
                if groups:
                    yield self._rows(groups, streams)
        except Ts4sError as exc:
            yield self._rows([_FAILED], [_carrier().dumps((index, to_wire(exc)))])

    def _rows(self, groups: Sequence[int], values: Sequence[bytes]) -> pa.RecordBatch:
        keys = [self.keys[max(group, 0)] for group in groups]
        arrays = [pa.array(keys, pa.int32()), pa.array(groups, pa.int32()), pa.array(values, pa.binary())]
        return pa.RecordBatch.from_arrays(arrays, names=["key", "group", "value"])


@dataclass(frozen=True)
class _Write:
    """(group, false, result) of each group in a partition, or (order, true, error)."""

    write: Callable[[int, pa.Table], Any]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        _settle_worker()
        tables: dict[int, list[pa.Table]] = {}
        failures = []
        for batch in batches:
            for group, value in zip(batch.column(1).to_pylist(), batch.column(2), strict=True):
                if group == _FAILED:
                    failures.append(_carrier().loads(value.as_py()))
                else:
                    # A copy: the batch goes when its rows are read.
                    tables.setdefault(group, []).append(pa.ipc.open_stream(pa.py_buffer(value.as_py())).read_all())
        if failures:
            yield _results([(index, True, error) for index, error in failures])
            return
        for group in sorted(tables):
            try:
                yield _results([(group, False, self.write(group, pa.concat_tables(tables.pop(group))))])
            except Ts4sError as exc:
                yield _results([(group, True, to_wire(exc))])


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
