"""``label<TAB>text``: a row a line, cut at the first tab; no header, no quoting."""

from __future__ import annotations

from collections.abc import Iterator

from ts4s_core.data.formats.lines import text_lines
from ts4s_core.data.formats.rows import Record, Tally


def records(lines: Iterator[bytes], tally: Tally) -> Iterator[Record]:
    """A record of label and text for every line that is not blank."""
    for record in text_lines(lines, tally):
        if record.reason is not None:
            yield record
            continue
        label, tab, text = str(record.cells[0]).partition("\t")
        yield Record(record.line, (label, text)) if tab else Record(record.line, reason="no tab between label and text")
