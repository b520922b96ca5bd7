"""JSON: an object a line, or one array of objects."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

from ts4s_core.data.formats.lines import text_lines
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, NOT_UTF8, TOO_LONG, Columns, Row, Tally, encodable, named_columns, row_of
from ts4s_core.errors import DataError

CHUNK_BYTES = 2**18
# An element that has not ended after this many characters means that the array is broken, not that a row is long.
MAX_ELEMENT_CHARS = 32 * MAX_ROW_BYTES
_BLANKS = " \t\r\n"


def is_array(head: bytes) -> bool:
    """Whether a file that begins so holds one array."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def read_json_lines(lines: Iterator[bytes], columns: Columns, tally: Tally) -> Iterator[Row]:
    """The good rows of some lines; bad and blank ones are tallied."""
    for number, line in text_lines(lines, tally):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            tally.refuse(number, f"not JSON: {exc}" if isinstance(exc, json.JSONDecodeError) else "not JSON")
            continue
        row = _row(value, columns)
        if isinstance(row, str):
            tally.refuse(number, row)
        else:
            yield row


def read_json_array(file: BinaryIO, name: str, columns: Columns, tally: Tally) -> Iterator[Row]:
    """The good rows of an array, read with bounded memory; a row's line is the one that it begins on.

    Raises:
        DataError: if the array itself is broken, so that what follows cannot be read.
    """
    for line, source, value in elements(file, name):
        tally.lines = line
        size = len(source.encode("utf-8", "surrogateescape"))
        row = TOO_LONG if size > MAX_ROW_BYTES else _row(value, columns)
        if isinstance(row, str):
            tally.refuse(line, row)
        else:
            yield row


def _row(value: object, columns: Columns) -> Row | str:
    if not isinstance(value, dict):
        return "not a JSON object"
    for column in (columns.label, columns.text):
        if column not in value:
            return f"no column {column!r}, it has {named_columns(value, show_text=columns.show_text)}"
    row = row_of(value[columns.label], value[columns.text], columns)
    if isinstance(row, Row) and not all(map(encodable, (row.text, *row.labels))):
        return NOT_UTF8
    return row


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
    return DataError(f"Data file {name} is no JSON array at line {line}: {reason}. Mend it, or give one object a line")
