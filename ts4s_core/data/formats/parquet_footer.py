"""What a Parquet file says of its column chunks, read from the footer's own bytes.

PyArrow ends the whole process (an exception of C++ that nobody catches) when it is asked for a column chunk whose description
contradicts itself, so a file from outside must not be asked that way. The footer is one struct in Thrift's compact form; what
is not wanted of it is passed over without being built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = b"PAR1"
BYTE_ARRAY = 6
_MAX_DEPTH = 32
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
# Field numbers as parquet.thrift has them; an empty mapping takes the value as it is.
_CHUNK: dict[int, Any] = {3: {1: {}, 3: {}, 5: {}, 6: {}, 7: {}, 11: {}}}
_FILE: dict[int, Any] = {4: {1: _CHUNK, 3: {}}}


@dataclass(frozen=True)
class Chunk:
    """One column of one row group.

    Attributes:
        path: names from the root to the leaf.
        values: number of values, nulls included.
        unfolded: bytes when decompressed.
        folded: bytes in the file.
        is_text: whether its values are byte strings.
        has_dictionary: whether it keeps a dictionary.
    """

    path: tuple[str, ...]
    values: int
    unfolded: int
    folded: int
    is_text: bool
    has_dictionary: bool


@dataclass(frozen=True)
class Group:
    """One row group."""

    rows: int
    chunks: tuple[Chunk, ...]


def read_groups(file: BinaryIO) -> list[Group]:
    """The row groups of a file whose footer is not encrypted.

    Raises:
        ValueError: if the footer is damaged.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length + 8 > size:
        raise ValueError("it does not end as a Parquet file does")
    file.seek(size - 8 - length)
    return groups_of(file.read(length))


def groups_of(footer: bytes) -> list[Group]:
    """The row groups that a footer describes.

    Raises:
        ValueError: if the bytes are not a valid footer.
    """
    try:
        record = _Compact(footer).struct(_FILE)
        return [Group(_whole(group[3]), tuple(_chunks(group[1]))) for group in record[4]]
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as exc:
        raise ValueError(f"its footer is damaged: {type(exc).__name__}") from exc


def _chunks(columns: list[dict[int, Any]]) -> Iterator[Chunk]:
    for column in columns:
        about = column[3]
        yield Chunk(
            path=tuple(name.decode() for name in about[3]),
            values=_whole(about[5]),
            unfolded=_whole(about[6]),
            folded=_whole(about[7]),
            is_text=about[1] == BYTE_ARRAY,
            has_dictionary=11 in about,
        )


def _whole(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError("its footer is damaged: a size that cannot be")
    return number


class _Compact:
    """A reader of Thrift's compact form."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0

    def struct(self, wanted: Mapping[int, Any] | None) -> dict[int, Any]:
        """The wanted fields by number; None: none."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("its footer is damaged: too many structures in each other")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step = head >> 4
            number = number + step if step else self._zigzag()
            inner = None if wanted is None else wanted.get(number)
            value = self._value(head & 15, inner)
            if inner is not None:
                fields[number] = value
        self._depth -= 1
        return fields

    def _value(self, kind: int, wanted: Mapping[int, Any] | None) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _STRUCT:
            return self.struct(wanted)
        if kind in (_LIST, _SET):
            return self._list(wanted)
        if kind == _MAP:
            return self._map()
        length = {_BYTE: 1, _DOUBLE: 8}.get(kind)
        if length is None and kind != _BINARY:
            raise ValueError(f"its footer is damaged: a value of kind {kind}")
        return self._bytes(self._varint() if length is None else length)

    def _list(self, wanted: Mapping[int, Any] | None) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        found = []
        for _ in range(size):
            value = self._bytes(1) if kind in (_TRUE, _FALSE) else self._value(kind, wanted)
            if wanted is not None:
                found.append(value)
        return found

    def _map(self) -> None:
        size = self._varint()
        kinds = self._byte() if size else 0
        for _ in range(size):
            for kind in (kinds >> 4, kinds & 15):
                self._bytes(1) if kind in (_TRUE, _FALSE) else self._value(kind, None)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, length: int) -> bytes:
        if self._at + length > len(self._data):
            raise ValueError("its footer is damaged: it ends inside a value")
        self._at += length
        return self._data[self._at - length : self._at]

    def _varint(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("its footer is damaged: a number without end")

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
