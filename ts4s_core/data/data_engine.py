"""Where the data steps run: the same functions in this process, or on Spark (``ts4s_core.spark.execution.data_engine``)."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.settings import DataSettings

GROUP_COLUMN = "group"
SPILL_BYTES = 256 * 2**20


@dataclass(frozen=True)
class TableSource:
    """What Spark reads as a table.

    Attributes:
        kind: ``data.format``: table, sql, jdbc, delta or iceberg.
        name: ``data.source``: a table's name, a query, a database's address, or a folder.
        query: of a database.
        options: of Spark's reader, ``KEY=VALUE``.
    """

    kind: str
    name: str
    query: str = ""
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: DataSettings) -> TableSource:
        """Of the settings."""
        return cls(str(data.format), data.source, data.query, data.options)

    @property
    def shown(self) -> str:
        """What errors call it."""
        return f"the rows of {self.name!r:.200}" if self.kind in ("sql", "jdbc") else f"Table {self.name}"


class DataEngine(Protocol):
    """Runs picklable functions over picklable items; results are small JSON values."""

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, stage: str, on_done: Callable[[int], None] | None = None
    ) -> list[Any]:
        """Apply ``function`` to every item, in parallel where there are slots; results in the items' order.

        Args:
            function: runs anywhere.
            items: what it is applied to.
            stage: what to call this in errors.
            on_done: called with the number of items that are done, in this thread or another.
        """

    def regroup(
        self,
        items: Sequence[Any],
        read: Callable[[Any], Iterator[pa.RecordBatch]],
        *,
        groups: int,
        write: Callable[[int, pa.Table], Any],
        stage: str,
    ) -> list[Any]:
        """Read rows from every item, bring the rows of a group together, and write each group.

        Args:
            items: what is read.
            read: yields batches with an int32 column ``group`` in ``[0, groups)``.
            groups: number of groups.
            write: called once a group that has rows, with all of them in any order; its result is small JSON.
            stage: what to call this in progress and errors.

        Returns:
            The results of ``write``, in the order of the groups.
        """

    def table_partitions(self, source: TableSource, columns: Sequence[tuple[str, str]]) -> Sequence[Any]:
        """The partitions of a Spark table, as items for ``map`` and ``regroup``; each yields tuples of the columns' values.

        Args:
            source: the table, or a query.
            columns: each with the setting of the group ``data`` that names it.

        Raises:
            SourceError: if this engine has no tables, or no such table.
            DataError: if it has no such column, or one of a type that is not taken.
        """

    def check_new_table(self, name: str) -> None:
        """Make sure that a table of that name can be made.

        Raises:
            ConflictError: if there is one.
            InputError: if this engine has no tables, or its catalog no such place.
        """

    def write_table(
        self, name: str, items: Sequence[Any], read: Callable[[Any], Iterator[pa.RecordBatch]], schema: pa.Schema
    ) -> None:
        """Make a table of what ``read`` yields for every item; only after :meth:`check_new_table`.

        Raises:
            ConflictError: if there is one of that name by now.
        """


def split_by_group(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each group in a batch, in the batch's order."""
    groups = batch.column(GROUP_COLUMN).to_numpy()
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    for start, end in zip(starts, [*starts, len(ordered)][1:], strict=True):
        yield int(ordered[start]), batch.take(pa.array(order[start:end]))


class LocalEngine:
    """Runs everything in this process; groups that do not fit into memory together wait in a temporary folder.

    The tokenizer, where the time goes, uses every core by itself.
    """

    def __init__(self, *, spill_bytes: int = SPILL_BYTES) -> None:
        self._spill_bytes = spill_bytes

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, stage: str, on_done: Callable[[int], None] | None = None
    ) -> list[Any]:
        """See :class:`DataEngine`."""
        results = []
        for item in items:
            results.append(function(item))
            if on_done is not None:
                on_done(len(results))
        return results

    def regroup(
        self,
        items: Sequence[Any],
        read: Callable[[Any], Iterator[pa.RecordBatch]],
        *,
        groups: int,
        write: Callable[[int, pa.Table], Any],
        stage: str,
    ) -> list[Any]:
        """See :class:`DataEngine`."""
        with tempfile.TemporaryDirectory(prefix="ts4s-groups-") as folder:
            shuffle = _Shuffle(Path(folder), self._spill_bytes)
            for item in items:
                for batch in read(item):
                    shuffle.add(batch)
            return [write(group, shuffle.take(group)) for group in range(groups) if shuffle.has(group)]

    def table_partitions(self, source: TableSource, columns: Sequence[tuple[str, str]]) -> Sequence[Any]:
        """See :class:`DataEngine`."""
        raise SourceError(
            f"data.source {source.name} with data.format {source.kind} needs Spark: give spark.master, or read the "
            "table's files as parquet"
        )

    def check_new_table(self, name: str) -> None:
        """See :class:`DataEngine`."""
        raise SettingsError(f"--output table:{name} needs Spark, spark.master is none: give a master, or a folder")

    def write_table(
        self, name: str, items: Sequence[Any], read: Callable[[Any], Iterator[pa.RecordBatch]], schema: pa.Schema
    ) -> None:
        """See :class:`DataEngine`."""
        self.check_new_table(name)


class _Shuffle:
    """Rows by group: in memory up to a limit, then in one Arrow file for each group and flush."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._held: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._held_bytes = 0
        self._files: dict[int, list[Path]] = defaultdict(list)

    def add(self, batch: pa.RecordBatch) -> None:
        for group, rows in split_by_group(batch):
            self._held[group].append(rows)
            self._held_bytes += rows.nbytes
        if self._held_bytes > self._limit:
            self._spill()

    def has(self, group: int) -> bool:
        return group in self._held or group in self._files

    def take(self, group: int) -> pa.Table:
        tables = []
        for path in self._files.pop(group, []):
            with pa.OSFile(str(path)) as file:
                tables.append(pa.ipc.open_stream(file).read_all())
            path.unlink()
        held = self._held.pop(group, [])
        if held:
            tables.append(pa.Table.from_batches(held))
        return pa.concat_tables(tables)

    def _spill(self) -> None:
        for group, batches in self._held.items():
            path = self._folder / f"{group}-{len(self._files[group])}.arrow"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batches[0].schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            self._files[group].append(path)
        self._held.clear()
        self._held_bytes = 0
