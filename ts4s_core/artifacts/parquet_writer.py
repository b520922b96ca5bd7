"""Writing Parquet files: row groups of known size, never an empty one.

An empty row group has no page, so that no reader can say where it is; and it says nothing that the schema does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq


class RowGroupWriter:
    """Writes tables of any size as one file. Use it as a context manager: leaving it writes the rest and the footer.

    Args:
        where: a path, or a file object of Arrow's.
        schema: of every table.
        rows_per_group: rows of each row group but the last, however the rows come; None: a row group for each table that has
            rows.
        plain: no dictionaries and no statistics, which depend on how a page fills, so that equal rows give equal bytes.
        compression_level: of zstd; None: its default.
    """

    def __init__(
        self,
        where: Path | Any,
        schema: pa.Schema,
        *,
        rows_per_group: int | None = None,
        plain: bool = False,
        compression_level: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False} if plain else {}
        self._writer = pq.ParquetWriter(where, schema, compression="zstd", compression_level=compression_level, **options)
        self._rows_per_group = rows_per_group
        self._held = schema.empty_table()

    def write(self, table: pa.Table) -> None:
        """Add rows; those that do not fill a row group yet wait for the next ones."""
        size = self._rows_per_group
        if size is None:
            self._write(table, max(1, table.num_rows))
            return
        held = pa.concat_tables([self._held, table]) if self._held.num_rows else table
        whole = held.num_rows // size * size
        self._write(held.slice(0, whole), size)
        self._held = held.slice(whole)

    def close(self) -> None:
        """Write what is left, and the footer."""
        self._write(self._held, max(1, self._held.num_rows))
        self._held = self._held.slice(0, 0)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_error: object) -> None:
        if failed is None:
            self.close()
        else:
            self._writer.close()

    def _write(self, table: pa.Table, rows_per_group: int) -> None:
        if table.num_rows:
            # In one piece: pages would end where the pieces do.
            self._writer.write_table(table.combine_chunks(), row_group_size=rows_per_group)
