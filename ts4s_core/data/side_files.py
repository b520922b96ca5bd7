"""The files of a dataset's sides: which rows stand in which, written wherever the rows are and registered by the step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ts4s_core.artifacts.pieces import row_groups_of
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import FileEntry, RowGroup
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter, stage_file
from ts4s_core.data.formats.rows import BadRow
from ts4s_core.data.schema import bucket_of, write_rows
from ts4s_core.data.sides import SIDES
from ts4s_core.settings import StorageSettings


@dataclass(frozen=True)
class SideGroups:
    """Which group a row belongs to: sides one after the other, each cut into ranges of ids.

    Attributes:
        buckets: id ranges of each side.
    """

    buckets: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return sum(self.buckets)

    def group_of(self, side: int, row_id: bytes) -> int:
        """The group of a row."""
        return sum(self.buckets[:side]) + bucket_of(row_id, self.buckets[side])

    def place(self, group: int) -> tuple[str, int]:
        """Side and file number of a group."""
        for side, buckets in zip(SIDES, self.buckets, strict=True):
            if group < buckets:
                return side, group
            group -= buckets
        raise AssertionError("a group is below the number of groups")


def stage_tables(
    storage: StorageSettings, ref: str, tables: Iterable[tuple[str, pa.Table]], *, rows_per_group: int | None = None
) -> list[dict[str, Any]]:
    """Write tables as Parquet files of a version that another process began; runs anywhere.

    Args:
        storage: where the version is.
        ref: the version.
        tables: name of each file in the version, and its rows.
        rows_per_group: rows of a row group, unless it is the dataset's usual number.

    Returns:
        entries as JSON values, for :func:`register_files`.
    """
    store, version, entries = ArtifactStore.open(storage), ArtifactRef.parse(ref), []
    with tempfile.TemporaryDirectory(prefix="ts4s-part-") as folder:
        for number, (name, rows) in enumerate(tables):
            local = Path(folder) / f"{number}.parquet"
            write_rows(rows, local, rows_per_group=rows_per_group)
            entry = stage_file(store.storage, version, name, local, row_groups_of(local))
            groups = [[group.rows, group.offset, group.size, group.sha256] for group in entry.row_groups or ()]
            entries.append({"path": name, "size": entry.size, "sha256": entry.sha256, "row_groups": groups})
    return entries


def register_files(writer: ArtifactWriter, entries: Iterable[Mapping[str, Any]]) -> None:
    """Register the files that :func:`stage_tables` wrote with the version's writer."""
    for entry in entries:
        pieces = tuple(RowGroup(*piece) for piece in entry["row_groups"])
        writer.register(FileEntry(entry["path"], entry["size"], entry["sha256"], True, pieces))


def add_bad_rows(writer: ArtifactWriter, *, bad_rows: int, listed: Sequence[BadRow]) -> None:
    """Write ``bad_rows.json``: how many there were, and where the first of them are. They do not make another dataset."""
    rows = [{"file": row.file, "line": row.line, "reason": row.reason} for row in listed]
    writer.add_json("bad_rows.json", {"bad_rows": bad_rows, "listed": len(rows), "rows": rows}, identity=False)
