"""A row of labelled text, what makes one bad, and the hashes that everything else hangs on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ts4s_core.errors import DataError, listed

MAX_ROW_BYTES = 2**20
LABEL_SEPARATOR = "|"
# A file that is bad from end to end must not fill the memory with its bad rows; they are counted all the same.
MAX_BAD_LISTED = 100_000

TOO_LONG = "more than 1 MiB"
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One text with its label (several, in order and each once, for a multi-label task), trimmed."""

    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is (line counted from 1) and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.reason}"


@dataclass
class Tally:
    """What a reader saw beside the good rows of one split. Lines are counted from the split's first one.

    Attributes:
        lines: lines so far (rows, where a format has no lines).
        blank: wholly blank ones among them.
        bad_rows: number of bad rows.
        bad: line and reason of the first ``MAX_BAD_LISTED`` of them.
    """

    lines: int = 0
    blank: int = 0
    bad_rows: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        """Note a bad row."""
        self.bad_rows += 1
        if len(self.bad) < MAX_BAD_LISTED:
            self.bad.append((line, reason))


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, whether a label cell may hold several labels, and whether messages may quote the data."""

    text: str
    label: str
    multi_label: bool
    show_text: bool = True

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """Each column with the setting that names it."""
        return ((self.label, "label_column"), (self.text, "text_column"))


def named_columns(names: Iterable[str], *, show_text: bool) -> str:
    """What columns there are, for messages. Where a header is missing, these are texts."""
    found = list(names)
    return (listed(map(repr, found)) or "none") if show_text else f"{len(found)} others (data.show_text is false)"


def check_columns(
    names: Sequence[str], name: str, wanted: Sequence[tuple[str, str]], *, place: str = "", show_text: bool = True
) -> None:
    """Refuse a file that does not have every wanted column once.

    Args:
        names: its columns.
        name: what errors call it.
        wanted: columns, each with the setting of the group ``data`` that names it.
        place: where the columns are listed, for the error.
        show_text: whether the error may quote the columns that there are.

    Raises:
        DataError: naming the column.
    """
    for column, setting in wanted:
        if names.count(column) != 1:
            problem = "has no column" if column not in names else "has more than one column"
            found = named_columns(names, show_text=show_text)
            raise DataError(f"Data file {name} {problem} {column!r}{place}: it has {found}. Set data.{setting}")


def row_of(label: object, text: object, columns: Columns) -> Row | str:
    """The row of two cells, or the reason why there is none.

    In a multi-label task a label cell is a list, or text with ``|`` between the labels.
    """
    if not isinstance(text, str):
        return "empty text" if text is None else f"the text is a {type(text).__name__}, not a string"
    labels = _labels_of(label, columns)
    if isinstance(labels, str):
        return labels
    text = text.strip()
    if not text:
        return "empty text"
    return Row(labels, text)


def _labels_of(cell: object, columns: Columns) -> tuple[str, ...] | str:
    if isinstance(cell, list) and not columns.multi_label:
        return "the label is a list: use model.task multi-label"
    if isinstance(cell, dict):
        return "the label is an object, not a string"
    if not columns.multi_label:
        label = _label_text(cell)
        return (label,) if label else "empty label"
    cells: list[object] = list(cell) if isinstance(cell, list) else list(_label_text(cell).split(LABEL_SEPARATOR))
    if any(isinstance(part, list | dict) for part in cells):
        return "a label in the list is no string"
    labels = sorted({label for label in map(_label_text, cells) if label})
    return tuple(labels) if labels else "empty label"


def _label_text(cell: object) -> str:
    """A label as text: numbers as they are usually written, so that 1, 1.0 and "1" are one label; nothing is empty."""
    if isinstance(cell, str):
        return cell.strip()
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        return str(int(cell)) if cell.is_integer() else repr(cell)
    return str(cell)


def encodable(text: str) -> bool:
    """Whether a string is UTF-8 text (JSON escapes, and bytes decoded leniently, can make half characters)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
