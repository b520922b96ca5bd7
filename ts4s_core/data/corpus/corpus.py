"""Plain text for a language model: which files, cut into which blocks, and which side each block falls to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from ts4s_core.data.files import ENDINGS, SourceFile, SourceFiles, ending_of, failures, files_of_format, log_left_out
from ts4s_core.data.formats import topics
from ts4s_core.data.formats.decoding import HEAD_BYTES, as_utf8, is_plain
from ts4s_core.data.formats.rows import NOT_UTF8, NUL, Tally
from ts4s_core.data.formats.text import blocks_between
from ts4s_core.data.sides import SidePlan
from ts4s_core.errors import SourceError, listed
from ts4s_core.settings import DataSettings, StorageSettings

SPLIT_BYTES = 32 * 2**20
SMALL_SPLIT_BYTES = 2**20
SPLITS_OF_SMALL = 8
BYTES_PER_WINDOW_TOKEN = 32
LEAST_BLOCK_BYTES = 4_096


@dataclass(frozen=True)
class Piece:
    """A range of a document: bytes ``start`` to ``end`` of a file, or of a text that only the driver can read.

    Without an end it is a whole file that is decoded on the way.
    """

    name: str
    start: int
    end: int | None
    file: SourceFile | None = None
    text: bytes = b""


@dataclass(frozen=True)
class TextSplit:
    """What one task reads: pieces, in order of file and place."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive text of a document, never cut further when sides are chosen.

    Attributes:
        text: the text, line ends as ``\\n``.
        data: the text as UTF-8.
        side: index into ``SIDES``.
    """

    text: str
    data: bytes
    side: int

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return len(self.data)

    @property
    def digest(self) -> bytes:
        """32 bytes over the text."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True)
class TextSource:
    """A source of text whose files are known. Picklable; ``read`` runs anywhere.

    Attributes:
        name: what errors call it.
        files: how to open its files.
        block_bytes: usual size of a block.
        by_document: a whole document falls to one side.
        documents: number of documents.
        splits: ranges of the files; ``read`` gives the blocks of one.
    """

    name: str
    files: SourceFiles
    block_bytes: int
    by_document: bool
    documents: int
    splits: Sequence[TextSplit] = ()

    def without_splits(self) -> TextSource:
        """The same source, small enough to send to every task."""
        return replace(self, splits=())

    def read(self, split: TextSplit, sides: SidePlan, tally: Tally) -> Iterator[Block]:
        """The blocks of a split that are text, in order; the others are tallied, with the line that they begin at.

        Raises:
            SourceError: if a file cannot be read.
        """
        for piece in split.pieces:
            with failures(piece.name):
                if piece.file is None:
                    yield from self._blocks(io.BytesIO(piece.text), piece, sides, tally)
                else:
                    with self.files.open(piece.file) as file:
                        yield from self._blocks(file, piece, sides, tally)

    def _blocks(self, raw: BinaryIO, piece: Piece, sides: SidePlan, tally: Tally) -> Iterator[Block]:
        side = None
        # A file that is cut into pieces is plain UTF-8.
        file = raw if piece.start else as_utf8(raw, piece.name)
        end = piece.end if file is raw else None
        if self.by_document:
            # A document falls where its beginning falls, so that readers of its other pieces need not read it all.
            head = next(blocks_between(file, 0, 1, block_bytes=self.block_bytes), (0, b""))[1]
            side = sides.side_of(head.decode("utf-8", "replace").replace("\r\n", "\n"))
        for _at, data in blocks_between(file, piece.start, end, block_bytes=self.block_bytes):
            line = tally.lines + 1
            tally.lines += data.count(b"\n") or 1
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                tally.refuse(line, NOT_UTF8)
                continue
            if NUL in text:
                tally.refuse(line, "a NUL character in it")
                continue
            if text.isspace():
                tally.blank += 1
                continue
            if b"\r\n" in data:
                text, data = text.replace("\r\n", "\n"), data.replace(b"\r\n", b"\n")
            yield Block(text, data, sides.side_of_bytes(data) if side is None else side)


def block_bytes_of(data: DataSettings) -> int:
    """The size of blocks: the setting, or one that holds some windows."""
    return data.block_bytes or max(LEAST_BLOCK_BYTES, BYTES_PER_WINDOW_TOKEN * data.window)


def open_text(data: DataSettings, storage: StorageSettings) -> TextSource:
    """Find the files and cut them into splits; nothing is read yet but the embedded text.

    Raises:
        SourceError: if there is no such source, or it does not hold plain text.
    """
    files, block_bytes = SourceFiles(data.source, storage), block_bytes_of(data)
    if data.format not in (None, "text"):
        raise SourceError(
            f"data.format {data.format} is for labelled data: a language model reads plain text. Use data.format text, or retrain"
        )
    if not data.source:
        documents = [(name, text.encode("utf-8")) for name, text in topics.read_topics()]
        pieces = [Piece(name, 0, len(text), text=text) for name, text in documents]
        splits = list(_gathered(pieces, SMALL_SPLIT_BYTES // 8))
        return TextSource("the embedded text", files, block_bytes, True, len(documents), splits)
    found = _text_files(data, files)
    size = min(max(sum(file.size for file in found) // SPLITS_OF_SMALL, SMALL_SPLIT_BYTES), SPLIT_BYTES)
    size = -(-size // block_bytes) * block_bytes
    pieces = [piece for file in found for piece in _pieces(files, file, size)]
    named = f"data.source {data.source}"
    return TextSource(named, files, block_bytes, data.split_by == "document", len(found), list(_gathered(pieces, size)))


def _pieces(files: SourceFiles, file: SourceFile, size: int) -> Iterator[Piece]:
    if file.size > size:
        with files.open(file) as reader:
            if not is_plain(reader.read(HEAD_BYTES)):
                yield Piece(file.name, 0, None, file)
                return
    yield from (Piece(file.name, start, min(start + size, file.size), file) for start in range(0, file.size, size))


def _text_files(data: DataSettings, files: SourceFiles) -> list[SourceFile]:
    """The files that hold text: one that is named, else those ending in .txt, else those of no other known format."""
    found, single = files.find()
    if not (single and data.format == "text"):
        plain = [file for file in found if ENDINGS.get(ending_of(file.name), "text") == "text"]
        if not plain:
            raise SourceError(
                f"data.source {data.source} holds {listed(sorted({ending_of(file.name) for file in found}))} files: "
                "expected plain text. Name a text file, or set data.format text for a single file that holds it"
            )
        if any(ending_of(file.name) == ".txt" for file in plain):
            found = files_of_format(data.source, found, "text")
        else:
            log_left_out(data.source, [file.name for file in found if file not in plain], "text")
            found = plain
    filled = [file for file in found if file.size]
    if not filled:
        raise SourceError(
            f"data.source {data.source} holds no text: all {len(found)} files are empty. Name another file or folder"
        )
    return filled


def _gathered(pieces: Sequence[Piece], size: int) -> Iterator[TextSplit]:
    """Small pieces together, so that a folder of many files is not a task a file."""
    held: list[Piece] = []
    total = 0
    for piece in pieces:
        length = (piece.file.size if piece.end is None and piece.file else piece.end or 0) - piece.start
        total += length
        if held and total > size:
            yield TextSplit(tuple(held))
            held, total = [], length
        held.append(piece)
    if held:
        yield TextSplit(tuple(held))
