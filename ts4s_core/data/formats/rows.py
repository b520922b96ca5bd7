"""A row of labelled text, what makes one bad, and the hashes that everything else depends on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ts4s_core.data.formats.cell_types import LIST, TABLE, is_missing, kind_of, plain_text
from ts4s_core.errors import DataError, listed

MAX_ROW_BYTES = 2**20
LABEL_SEPARATOR = "|"
# A file that is bad from end to end must not fill the memory with its bad rows; they are counted all the same.
MAX_BAD_LISTED = 100_000

TOO_LONG = "more than 1 MiB"
NOT_UTF8 = "not UTF-8"
NUL = "\0"


@dataclass(frozen=True, slots=True)
class Record:
    """What a reader of some format found at a place: cells, or the reason why they cannot be read.

    Attributes:
        line: of the split, from 1 (where a format has no lines, the row).
        cells: one for each column that was asked for, as the format has them.
        reason: what is wrong with it as a whole.
        lines: how many lines it takes: so many are lost where it is bad.
        source: its text in the file, where a format looks at more than the cells.
    """

    line: int
    cells: tuple[object, ...] = ()
    reason: str | None = None
    lines: int = 1
    source: str = ""


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
        bad_lines: lines that they take: more than rows, where a quote that is not closed in its place swallowed some.
        bad: line and reason of the first ``MAX_BAD_LISTED`` of them.
        longest: most lines of a good row, and the line that it begins on.
    """

    lines: int = 0
    blank: int = 0
    bad_rows: int = 0
    bad_lines: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    longest: tuple[int, int] = (0, 0)

    def refuse(self, line: int, reason: str, *, lines: int = 1) -> None:
        """Note a bad row."""
        self.bad_rows += 1
        self.bad_lines += lines
        if len(self.bad) < MAX_BAD_LISTED:
            self.bad.append((line, reason if lines == 1 else f"{reason} ({lines} lines are lost)"))


@dataclass(frozen=True)
class Dialect:
    """How csv is written.

    Attributes:
        escape: the character that stands before a quote inside quotes; empty: quotes are doubled.
        everywhere: it counts outside of quotes too.
    """

    escape: str = ""
    everywhere: bool = False


RFC_4180 = Dialect()


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and how they are written.

    Attributes:
        text: the column of the text.
        label: the column of the label.
        multi_label: whether a label cell may hold several labels.
        show_text: whether messages may quote the data.
        dialect: of csv.
    """

    text: str
    label: str
    multi_label: bool
    show_text: bool = True
    dialect: Dialect = RFC_4180

    @property
    def names(self) -> tuple[str, str]:
        """The label's column and the text's."""
        return (self.label, self.text)

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """Each column with the setting that names it."""
        return ((self.label, "label_column"), (self.text, "text_column"))


def named_columns(names: Iterable[str], *, show_text: bool) -> str:
    """What columns there are, for messages. Where a header is missing, these are texts."""
    found = list(names)
    return (listed(map(repr, found)) or "none") if show_text else f"{len(found)} others (data.show_text is false)"


def check_columns(
    names: Sequence[str],
    name: str,
    wanted: Sequence[tuple[str, str]],
    *,
    place: str = "",
    hint: str = "",
    show_text: bool = True,
) -> None:
    """Refuse a file that does not have every wanted column once.

    Args:
        names: its columns.
        name: what errors call it.
        wanted: columns, each with the setting of the group ``data`` that names it.
        place: where the columns are listed, for the error.
        hint: what else may be done.
        show_text: whether the error may quote the columns that there are.

    Raises:
        DataError: naming the column.
    """
    for column, setting in wanted:
        if names.count(column) != 1:
            problem = "has no column" if column not in names else "has more than one column"
            found = named_columns(names, show_text=show_text)
            raise DataError(f"Data file {name} {problem} {column!r}{place}: it has {found}. Set data.{setting}{hint}")


def rows_of(records: Iterable[Record], columns: Columns, tally: Tally) -> Iterator[Row]:
    """The good rows of records whose cells are label and text; the others are tallied."""
    for record in records:
        label, text = record.cells or (None, None)
        row = record.reason if record.reason is not None else row_of(label, text, columns)
        if isinstance(row, Row) and not encodable(record.source):
            row = NOT_UTF8
        if isinstance(row, str):
            tally.refuse(record.line, row, lines=record.lines)
            continue
        tally.longest = max(tally.longest, (record.lines, record.line))
        yield row


def row_of(label: object, text: object, columns: Columns) -> Row | str:
    """The row of two cells, or the reason why they are not a valid row.

    In a multi-label task a label cell is a list, or text with ``|`` between the labels.
    """
    words = text_of(text)
    if words.reason:
        return words.reason
    labels = _labels_of(label, columns)
    if isinstance(labels, str):
        return labels
    if not all(map(encodable, labels)):
        return NOT_UTF8
    if any(NUL in part for part in labels):
        return "a NUL character in the label"
    return TOO_LONG if is_too_long(words.text, *labels) else Row(labels, words.text)


@dataclass(frozen=True, slots=True)
class TextCell:
    """The trimmed text of a cell, or the reason why the cell is not a valid text."""

    text: str = ""
    reason: str | None = None


def text_of(cell: object) -> TextCell:
    """The text of a cell."""
    if cell is None:
        return TextCell(reason="empty text")
    if not isinstance(cell, str):
        return TextCell(reason=f"the text is a {type(cell).__name__}, not a string")
    if not encodable(cell):
        return TextCell(reason=NOT_UTF8)
    if is_too_long(cell):
        return TextCell(reason=TOO_LONG)
    text = cell.strip()
    if NUL in text:
        return TextCell(reason="a NUL character in the text")
    return TextCell(text) if text else TextCell(reason="empty text")


def _labels_of(cell: object, columns: Columns) -> tuple[str, ...] | str:
    kind = kind_of(cell)
    if kind not in TABLE["label_column"]:
        return f"the label is {kind}, not text or a number"
    if kind == LIST and not columns.multi_label:
        return "the label is a list: use model.task multi-label"
    if isinstance(cell, list):
        cells: list[object] = list(cell)
    else:
        whole = _label_text(cell)
        cells = list(whole.split(LABEL_SEPARATOR)) if columns.multi_label else [whole]
    wrong = next((part for part in map(kind_of, cells) if part == LIST or part not in TABLE["label_column"]), None)
    if wrong:
        return f"a label in the list is {wrong}, not text or a number"
    if any(isinstance(part, float) and math.isinf(part) for part in [cell, *cells]):
        return "the label is infinite"
    labels = sorted({label for label in map(_label_text, cells) if label})
    return tuple(labels) if labels else "empty label"


def _label_text(cell: object) -> str:
    return "" if is_missing(cell) else plain_text(cell).strip()


def encodable(text: str) -> bool:
    """Whether a string is UTF-8 text (JSON escapes, and bytes decoded leniently, can make half characters)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_too_long(*texts: str) -> bool:
    """Whether texts take more bytes together than a row may."""
    if 4 * sum(map(len, texts)) <= MAX_ROW_BYTES:
        return False
    return sum(len(text.encode("utf-8")) for text in texts) > MAX_ROW_BYTES
