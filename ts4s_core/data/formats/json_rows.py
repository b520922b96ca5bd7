"""JSON: an object a line, or one array of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ts4s_core.data.formats.lines import text_lines
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, TOO_LONG, Record, Tally, named_columns
from ts4s_core.errors import DataError

CHUNK_BYTES = 2**18
# An element that has not ended after this many characters means that the array is broken, not that a row is long.
MAX_ELEMENT_CHARS = 32 * MAX_ROW_BYTES
_BLANKS = " \t\r\n"
#: The first name of an object, and what its value begins with where it is a list or an object.
_FIRST_VALUE = re.compile(r'\{\s*"([^"\\]*)"\s*:\s*((?:[\[{]\s*){0,2})')
#: A first value that holds cells by the numbers of their rows.
_BY_COLUMNS = re.compile(r'\{\s*"[^"\\]*"\s*:\s*\{\s*"0"\s*:')
_TABLE_SCHEMA = re.compile(r'\{\s*"schema"\s*:\s*\{\s*"fields"\s*:\s*\[')
_BY_PANDAS = "in pandas: to_json(path, orient='records', lines=True)"
#: What wrapped rows are usually called.
_WRAPPERS = ("data", "rows", "records", "items", "examples", "instances", "results", "train", "test", "validation", "dataset")


def is_array(head: bytes) -> bool:
    """Whether a file that begins so holds one array."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def refuse_whole(head: bytes, name: str, names: Sequence[str]) -> None:
    """Refuse a file that holds one object for all rows: rows wrapped under a name, or pandas' form by columns.

    Args:
        head: its first bytes, as UTF-8.
        name: what errors call it.
        names: the columns that are wanted.

    Raises:
        DataError: with the way out.
    """
    text = head.decode("utf-8-sig", "replace").lstrip()
    found = _FIRST_VALUE.match(text)
    if found is None:
        return
    key, begin = found[1], found[2].replace(" ", "").replace("\n", "").replace("\r", "").replace("\t", "")
    whole = _whole_line(text)
    if _BY_COLUMNS.match(text) or (whole and all(_is_column(whole.get(column)) for column in names)):
        kind, way_out = "one object with a value for each column", _BY_PANDAS
    elif key == "0" and begin.startswith("{"):
        kind, way_out = "one object with the rows under their numbers", _BY_PANDAS
    elif key in ("columns", "index") and begin.startswith("["):
        kind, way_out = "pandas' split form", _BY_PANDAS
    elif key == "schema" and _TABLE_SCHEMA.match(text):
        kind, way_out = "pandas' table form", _BY_PANDAS
    elif begin.startswith(("[{", "[[")) and (key in _WRAPPERS or (whole is not None and not set(names) & set(whole))):
        kind, way_out = f"rows wrapped in an object, under {key!r}", f"with jq: jq -c '.{key}[]'"
    elif text.split("\n", 1)[0].strip() == "{" and not begin:
        kind, way_out = "objects over several lines", "with jq: jq -c ."
    else:
        return
    raise DataError(
        f"Data file {name} holds {kind}: expected one object a line, or one array of objects. Write it so ({way_out})"
    )


def _whole_line(text: str) -> dict[str, object] | None:
    """The object of the first line, if it is complete."""
    try:
        value = json.loads(text.split("\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_column(value: object) -> bool:
    """Whether a value holds a cell for each row."""
    return isinstance(value, dict | list)


def line_records(lines: Iterator[bytes], names: Sequence[str], tally: Tally, *, show_text: bool) -> Iterator[Record]:
    """A record for every line that is not blank, with the values of some names; null where a name is missing."""
    for record in text_lines(lines, tally):
        if record.reason is not None:
            yield record
            continue
        try:
            value = json.loads(str(record.cells[0]))
        except (ValueError, RecursionError) as exc:
            reason = f"not JSON: {exc}" if isinstance(exc, json.JSONDecodeError) else "not JSON"
            yield Record(record.line, reason=reason)
            continue
        yield _record(record.line, value, names, show_text=show_text)


def array_records(file: BinaryIO, name: str, names: Sequence[str], tally: Tally, *, show_text: bool) -> Iterator[Record]:
    """A record for every element of an array, with the values of some names; null where a name is missing.

    Raises:
        DataError: if the array itself is broken, so that what follows cannot be read.
    """
    for line, source, value in elements(file, name):
        tally.lines = line
        if len(source.encode("utf-8", "surrogateescape")) > MAX_ROW_BYTES:
            yield Record(line, reason=TOO_LONG)
        else:
            yield _record(line, value, names, show_text=show_text)


def _record(line: int, value: object, names: Sequence[str], *, show_text: bool) -> Record:
    if not isinstance(value, dict):
        return Record(line, reason="not a JSON object")
    cells = tuple(value.get(name) for name in names)
    missing = next((name for name in names if name not in value), None)
    if missing is None:
        return Record(line, cells)
    return Record(line, cells, f"no column {missing!r}, it has {named_columns(value, show_text=show_text)}")


class _Characters:
    """A file's text from a moving position on; bytes that are no UTF-8 become half characters, found out row by row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def more(self) -> None:
        """Read on: as much again as there is, so that a long element costs linear time."""
        data = self._file.read(max(CHUNK_BYTES, len(self.text) - self.at))
        self.ended = not data
        self.text = self.text[self.at :] + self._decoder.decode(data, final=self.ended)
        self.at = 0

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in _BLANKS:
                end += 1
            self.advance(end)
            if end < len(self.text) or self.ended:
                return self.text[end : end + 1]
            self.more()


def elements(file: BinaryIO, name: str) -> Iterator[tuple[int, str, object]]:
    """Line, source and value of each element of an array, read with bounded memory.

    Raises:
        DataError: if the array itself is broken, so that what follows cannot be read.
    """
    decoder = json.JSONDecoder()
    characters = _Characters(file)
    characters.peek()
    characters.advance(characters.at + 1)
    if characters.peek() == "]":
        characters.advance(characters.at + 1)
    else:
        while True:
            if not characters.peek():
                raise _broken(name, characters.line, "it ends inside the array")
            line = characters.line
            value, source = _element(decoder, characters, name)
            yield line, source, value
            mark = characters.peek()
            characters.advance(characters.at + 1)
            if mark == "]":
                break
            if mark != ",":
                reason = f"expected ',' or ']', got {mark!r}" if mark else "it ends inside the array"
                raise _broken(name, characters.line, reason)
    if characters.peek():
        raise _broken(name, characters.line, "something follows the array")


def _element(decoder: json.JSONDecoder, characters: _Characters, name: str) -> tuple[object, str]:
    while True:
        try:
            value, end = decoder.raw_decode(characters.text, characters.at)
        except (ValueError, RecursionError) as exc:
            if characters.ended or len(characters.text) - characters.at > MAX_ELEMENT_CHARS or isinstance(exc, RecursionError):
                raise _broken(name, characters.line, str(exc).split(":")[0]) from None
        else:
            if end < len(characters.text) or characters.ended:
                source = characters.text[characters.at : end]
                characters.advance(end)
                return value, source
        characters.more()


def _broken(name: str, line: int, reason: str) -> DataError:
    return DataError(f"Data file {name} is not a valid JSON array at line {line}: {reason}. Fix it, or give one object a line")
