"""Text from outside on its way to people: labels, file names, reasons, error texts, names of models. One function for each place.

A terminal obeys control characters, Markdown its marks, a spreadsheet a leading ``=``. What would be obeyed is shown instead.
HTML has a place of its own, the report's templates, which escape whatever they are given.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

#: Control characters of both blocks, line and paragraph separators, marks that turn the direction of writing around, invisible
#: tags, halves of surrogate pairs. Joiners stay: scripts and emoji are written with them.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_OBEYED_IN_LINES = re.compile(_OBEYED.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|~!&:])")
#: What a spreadsheet takes for the beginning of a formula, in full width too; a plain number is not one.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z")


def line(text: str) -> str:
    """Text for one line of a terminal, a log or a message: what a terminal would obey, line ends too, is shown escaped."""
    return _OBEYED.sub(_escaped, text)


def lines(text: str) -> str:
    """The same for text that is laid out already: line ends and tabs stay."""
    return _OBEYED_IN_LINES.sub(_escaped, text)


def for_encoding(text: str, encoding: str | None) -> str:
    """Text that a stream of this encoding takes: other characters are shown escaped."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def json_line(value: Any, encoding: str | None = None) -> str:
    """A value as JSON on one line that no terminal obeys and that a stream of this encoding takes; its meaning is the same."""
    text = _OBEYED.sub(_json_escaped, json.dumps(value, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def markdown(text: str) -> str:
    """Text for one line of Markdown: its marks are shown."""
    return _MARKS.sub(r"\\\1", line(text))


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8. A text cell that a spreadsheet would run gets an apostrophe in front; numbers stay as they are."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (header, *rows))
    return out.getvalue().encode("utf-8", "backslashreplace")


def csv_cell(value: object) -> object:
    """One cell; see :func:`csv_bytes`."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.match(value):
        return f"'{value}"
    return value


def _escaped(found: re.Match[str]) -> str:
    letter = found.group()
    code = ord(letter)
    if letter in _NAMED:
        return _NAMED[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]
