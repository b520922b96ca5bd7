"""``label<TAB>text``: a row a line, cut at the first tab; no header, no quoting."""

from __future__ import annotations

from collections.abc import Iterator

from ts4s_core.data.formats.lines import text_lines
from ts4s_core.data.formats.rows import Columns, Row, Tally, row_of


def read_tsv(lines: Iterator[bytes], columns: Columns, tally: Tally) -> Iterator[Row]:
    """The good rows of some lines; bad and blank ones are tallied."""
    for number, line in text_lines(lines, tally):
        label, tab, text = line.partition("\t")
        row = row_of(label, text, columns) if tab else "no tab between label and text"
        if isinstance(row, str):
            tally.refuse(number, row)
        else:
            yield row
