"""A file of text as UTF-8, whatever it is compressed with and whichever Unicode encoding its mark names.

What is neither is refused by name: NUL bytes at a file's head are UTF-16 without a mark, or no text at all.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from ts4s_core.errors import DataError

HEAD_BYTES = 4_096
CHUNK_BYTES = 2**18
#: A dictionary of xz is held in memory as a whole; its own tools make none above 64 MiB.
MOST_XZ_BYTES = 256 * 2**20
#: What stands in for bytes that are no character of the encoding: it cannot be UTF-8, so that its row is found out.
_NO_CHARACTER = "\udcff"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x04\x22\x4d\x18", "a file compressed with lz4"),
    (b"\xff\x06\x00\x00sNaPpY", "a file compressed with snappy"),
)


def _zstandard(file: BinaryIO) -> BinaryIO:
    import pyarrow as pa

    return cast(BinaryIO, pa.CompressedInputStream(io.BufferedReader(_Kept(file)), "zstd"))


#: First bytes, name and reader of what is unfolded.
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", "gzip", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", "bzip2", bz2.BZ2File),
    (b"\xfd7zXZ\x00", "xz", lambda file: io.BufferedReader(_Xz(file))),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstandard),
)
#: Endings of compressed files, and of those that cannot be read.
COMPRESSED = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
NOT_UNFOLDED = (".lz4", ".snappy", ".deflate", ".zip", ".7z", ".tar", ".tgz", ".rar", ".br", ".lzo", ".z")


def is_plain(head: bytes) -> bool:
    """Whether a file that begins so can be cut at any line: neither compressed nor in another encoding than UTF-8."""
    other = any(head.startswith(magic) for magic, _name, _open in _COMPRESSIONS)
    return not other and not any(head.startswith(mark) for mark, encoding in _MARKS if encoding != "utf-8")


def as_utf8(file: BinaryIO, name: str) -> BinaryIO:
    """The file's text as UTF-8 bytes; a plain file is itself. Memory does not grow with the file.

    Args:
        file: seekable, at its beginning.
        name: what errors call it.

    Raises:
        DataError: if it is not text; the message says what it seems to be, and what to do.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    compression = next((entry for entry in _COMPRESSIONS if head.startswith(entry[0])), None)
    if compression is None and is_plain(head):
        _refuse_nuls(head, name)
        return file
    stream = _Stream(file, name, compression)
    _refuse_nuls(stream.head, name)
    return cast(BinaryIO, io.BufferedReader(stream, CHUNK_BYTES))


def _refuse_nuls(head: bytes, name: str) -> None:
    """Refuse what is no UTF-8 text: a NUL among the first characters, or many, or two bytes a character."""
    if b"\0" not in head:
        return
    kind = next((kind for magic, kind in _KINDS if head.startswith(magic)), None)
    if kind is None:
        encodings = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
        few = b"\0" not in head[:4] and head.count(b"\0") * 10 < len(head)
        wide = None if few and _is_utf8(head) else next((encoding for encoding in encodings if _seems(head, encoding)), None)
        if few and wide is None:
            return  # a stray NUL is its row's fault
        kind = f"{wide.upper()} text without a byte-order mark" if wide else None
    raise DataError(
        f"Data file {name} begins with NUL bytes and seems to be {kind or 'no text'}: expected UTF-8 text. "
        f"{'Save it as UTF-8' if kind and 'text' in kind else 'Write its rows as csv, json or Parquet, or name other files'}"
    )


def _is_utf8(head: bytes) -> bool:
    """Whether bytes are UTF-8, but for a character that is cut at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _seems(head: bytes, encoding: str) -> bool:
    """Whether bytes with NULs are text of two or four bytes a character: they decode, and have signs that texts have."""
    width = 4 if "32" in encoding else 2
    try:
        text = head[: len(head) // width * width].decode(encoding)
    except UnicodeDecodeError as exc:
        if exc.end < len(head) - width:
            return False
        text = head[: exc.start].decode(encoding)
    return "\0" not in text and any(sign in text for sign in "\n\t ,")


class _Kept(io.RawIOBase):
    """A file that its reader does not close: Arrow's does when it is thrown away."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Xz(io.RawIOBase):
    """xz with a bound on its memory, which Python's own file object has not."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._made = self._new()
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if self._made.eof:
                # Padding between streams is zeros.
                self._left = (self._made.unused_data or self._file.read(CHUNK_BYTES)).lstrip(b"\0")
                if not self._left:
                    return 0
                self._made = self._new()
            elif self._made.needs_input and not self._left:
                self._left = self._file.read(CHUNK_BYTES)
                if not self._left:
                    raise EOFError("it ends inside a stream")
            data = self._made.decompress(self._left, max_length=len(view))
            self._left = b""
            if data:
                view[: len(data)] = data
                return len(data)

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=MOST_XZ_BYTES)


class _Stream(io.RawIOBase):
    """UTF-8 bytes of a compressed file, of one in UTF-16 or UTF-32, or of both. It can be begun anew, and no other seek."""

    def __init__(self, file: BinaryIO, name: str, compression: tuple[bytes, str, Callable[[BinaryIO], Any]] | None) -> None:
        super().__init__()
        self._file, self._name, self._compression = file, name, compression
        self._waiting = self.head = b""
        self._begin()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._given

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset == self._given and whence == io.SEEK_SET:
            return offset
        if offset or whence != io.SEEK_SET:
            raise io.UnsupportedOperation("a text that is decoded on the way is read from its beginning alone")
        self._file.seek(0)
        self._begin()
        return 0

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while not self._waiting:
            data = self._read(CHUNK_BYTES)
            self._waiting = data if self._decoder is None else self._recoded(data)
            if not data and not self._waiting:
                return 0
        count = min(len(view), len(self._waiting))
        view[:count], self._waiting = self._waiting[:count], self._waiting[count:]
        self._given += count
        return count

    def _begin(self) -> None:
        self._given = 0
        with self._damages():
            self._source: Any = self._file if self._compression is None else self._compression[2](self._file)
        head = b""
        while len(head) < HEAD_BYTES and (more := self._read(HEAD_BYTES - len(head))):
            head += more
        encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")
        self._decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("ts4s_no_character")
        self._waiting = self.head = head if self._decoder is None else self._recoded(head)

    def _recoded(self, data: bytes) -> bytes:
        assert self._decoder is not None, "UTF-8 is not recoded"
        return self._decoder.decode(data, not data).encode("utf-8", "surrogatepass")

    def _read(self, size: int) -> bytes:
        with self._damages():
            return bytes(self._source.read(size))

    @contextmanager
    def _damages(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as exc:
            if self._compression is None or (isinstance(exc, OSError) and exc.errno is not None):
                raise
            raise DataError(
                f"Data file {self._name} is damaged {self._compression[1]}: {str(exc).rstrip('.')}. Write or copy it again"
            ) from exc


def _no_character(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError), "it is given to decoders alone"
    return _NO_CHARACTER, error.end


codecs.register_error("ts4s_no_character", _no_character)
