"""Reading a dataset artifact: streamed by row group, every piece verified."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.data.formats.parquet_footer import Group, read_groups
from ts4s_core.data.formats.rows import MAX_ROW_BYTES
from ts4s_core.data.sides import SIDES
from ts4s_core.errors import IntegrityError, NotFoundError, Ts4sError

OPEN_FILES = 4
UNFOLDED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class RowGroupPlace:
    """Where a row group is: file within the version, number within the file, rows."""

    file: str
    index: int
    rows: int


class Dataset:
    """A dataset version. Memory does not grow with its size.

    Attributes:
        ref: the version.
        labels: label names in the order of the label numbers.
        fingerprint: hash of the rows' content.
        max_length: tokens that texts were cut to.
        pad_id: token id that batches are filled up with.
        task: what the labels are for (``classification``, ``multi-label``).
        row_groups: by side, its row groups in canonical order.
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self._store = store
        facts = DatasetFacts.of(manifest)
        self.ref = manifest.ref
        self.labels = facts.labels
        self.fingerprint = facts.fingerprint
        self.max_length = facts.max_length
        self.pad_id = facts.pad_id
        self.task = facts.task
        self.row_groups: dict[str, tuple[RowGroupPlace, ...]] = {side: tuple(_places(manifest, side)) for side in SIDES}
        self._footers = {entry.path: entry.row_groups[-1] for entry in manifest.files if entry.row_groups}
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    @classmethod
    def open(cls, store: ArtifactStore, ref: ArtifactRef) -> Self:
        """The dataset of a version; reads its manifest alone.

        Raises:
            NotFoundError: if there is no such version.
            IntegrityError: if its manifest is damaged or that of another kind.
        """
        return cls(store, store.manifest(ref))

    def rows(self, side: str) -> int:
        """Number of rows of a side."""
        return sum(place.rows for place in self._places(side))

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side: what a plan of batches is made from."""
        return tuple(place.rows for place in self._places(side))

    def read_row_groups(self, side: str, indices: Sequence[int], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The row groups with these numbers, in the order given, one table each.

        Args:
            side: ``train``, ``validation`` or ``test``.
            indices: numbers into ``row_groups[side]``.
            columns: among id, label, input_ids, length, text; None: all.

        Raises:
            IntegrityError: if a row group is damaged or missing.
        """
        places = self._places(side)
        for index in indices:
            place = places[index]
            parquet = self._file(place.file)
            try:
                table = parquet.read_row_group(place.index, columns=None if columns is None else list(columns), use_threads=False)
            except Ts4sError:
                raise
            except (pa.ArrowException, OSError, ValueError) as exc:  # Arrow has a plain OSError for bytes it cannot decode
                raise IntegrityError(f"{self.ref}/{place.file} row group {place.index} cannot be decoded: {exc}") from exc
            if table.num_rows != place.rows:
                raise IntegrityError(
                    f"{self.ref}/{place.file} row group {place.index}: expected {place.rows} rows, got {table.num_rows}"
                )
            yield table

    def read(self, side: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All row groups of a side, in canonical order."""
        return self.read_row_groups(side, range(len(self._places(side))), columns)

    def tokenizer_folder(self) -> Path:
        """A local folder with the verified files of the tokenizer."""
        manifest = self._store.manifest(self.ref)
        paths = [entry.path for entry in manifest.files if entry.path.startswith("tokenizer/")]
        local = [self._store.local_file(self.ref, path) for path in paths]
        if not local:
            raise NotFoundError(f"{self.ref} has no tokenizer/ folder: prepare it again")
        depth = len(Path(paths[0]).parts) - 2
        return local[0].parents[depth]

    def card(self) -> dict[str, Any]:
        """The dataset's card."""
        with self._store.open_file(self.ref, "card.json") as file:
            card: dict[str, Any] = json.load(file)
        return card

    def close(self) -> None:
        """Close the files that are open."""
        for parquet in self._files.values():
            parquet.close(force=True)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _places(self, side: str) -> tuple[RowGroupPlace, ...]:
        if side not in self.row_groups:
            raise NotFoundError(f"{self.ref} has no side {side!r}: it has {', '.join(SIDES)}")
        return self.row_groups[side]

    def _file(self, path: str) -> pq.ParquetFile:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= OPEN_FILES:
            self._files.popitem(last=False)[1].close(force=True)
        file, footer = self._store.open_file(self.ref, path), self._footers[path]
        try:
            # Arrow looks for the footer in the last 64 KiB, and would fetch every row group that begins there.
            file.seek(footer.offset)
            end = io.BytesIO(file.read(footer.size))
            parquet = pq.ParquetFile(file, metadata=pq.read_metadata(end))
            groups = read_groups(end)
        except Ts4sError:
            raise
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise IntegrityError(
                f"{self.ref}/{path} cannot be read: expected a Parquet file, got {exc}. Prepare the dataset again"
            ) from exc
        self._refuse_bombs(path, groups)
        self._files[path] = parquet
        return parquet

    def _refuse_bombs(self, path: str, groups: Sequence[Group]) -> None:
        """A row group that unfolds to more than its rows can hold was not written by ``prepare``."""
        for number, group in enumerate(groups):
            most = UNFOLDED_BYTES + group.rows * (MAX_ROW_BYTES + 4 * self.max_length)
            unfolded = max(
                sum(chunk.unfolded for chunk in group.chunks), 4 * max((chunk.values for chunk in group.chunks), default=0)
            )
            if unfolded > most:
                raise IntegrityError(
                    f"{self.ref}/{path} is refused: row group {number} of {group.rows} rows unfolds to "
                    f"{unfolded} bytes, expected at most {most}. Prepare the dataset again"
                )


def _places(manifest: Manifest, side: str) -> Iterator[RowGroupPlace]:
    for entry in sorted(manifest.files, key=lambda entry: entry.path):
        if entry.path.startswith(f"{side}/") and entry.row_groups is not None:
            # The last piece is the footer.
            yield from (RowGroupPlace(entry.path, at, group.rows) for at, group in enumerate(entry.row_groups[:-1]) if group.rows)
