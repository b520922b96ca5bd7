"""Read all of a text once, train its tokenizer, and check everything, before the first write."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ts4s_core.artifacts.versions.keys import canonical_json
from ts4s_core.data.corpus.corpus import TextSource, TextSplit, open_text
from ts4s_core.data.corpus.tokenizer_training import train_tokenizer
from ts4s_core.data.corpus.tokens import TextTokenizer
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.formats.rows import MAX_BAD_LISTED, BadRow, Tally
from ts4s_core.data.sides import SIDES, SidePlan
from ts4s_core.errors import DataError, listed
from ts4s_core.settings import Settings

log = logging.getLogger(__name__)

DIGEST_MODULUS = 2**256
#: Text that a tokenizer is trained on: its merges hardly change with more, and the driver holds it in memory.
SAMPLE_BYTES = 32 * 2**20


@dataclass
class TextCounts:
    """Figures of a side; they add up.

    Attributes:
        blocks: number of blocks.
        size: their bytes.
        content: sum of their digests.
        longest: the longest block (of equals, the first by content).
    """

    blocks: int = 0
    size: int = 0
    content: int = 0
    longest: str = ""

    def add(self, text: str, size: int, digest: bytes) -> None:
        """Count a block."""
        self.blocks += 1
        self.size += size
        self.content = (self.content + int.from_bytes(digest, "big")) % DIGEST_MODULUS
        self.longest = max(self.longest, text, key=_by_length)

    def merge(self, other: TextCounts) -> None:
        """Add another split's figures."""
        self.blocks += other.blocks
        self.size += other.size
        self.content = (self.content + other.content) % DIGEST_MODULUS
        self.longest = max(self.longest, other.longest, key=_by_length)


def _by_length(text: str) -> tuple[int, str]:
    return len(text), text


@dataclass(frozen=True)
class TextScan:
    """The result of scanning a text.

    Attributes:
        source: where it comes from.
        side_plan: which side a block or document falls to.
        sides: figures of each side by name.
        lines: lines that were read.
        blank_blocks: blocks of white space.
        bad_rows: blocks that are no text.
        bad: where they are (at most ``MAX_BAD_LISTED``).
        tokenizer: files of the tokenizer.
        tokenizer_trained: whether it was trained on this text.
    """

    source: TextSource
    side_plan: SidePlan
    sides: Mapping[str, TextCounts]
    lines: int
    blank_blocks: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    tokenizer: dict[str, bytes]
    tokenizer_trained: bool

    @property
    def fingerprint(self) -> str:
        """Hash over the blocks of each side, whatever their order, files or time."""
        return text_fingerprint({name: (counts.blocks, counts.content) for name, counts in self.sides.items()})


def text_fingerprint(sides: Mapping[str, tuple[int, int]]) -> str:
    """The fingerprint of sides with so many blocks whose digests add up to so much."""
    record = {name: {"rows": blocks, "digests": f"{content:064x}"} for name, (blocks, content) in sides.items()}
    return hashlib.sha256(canonical_json(record)).hexdigest()


@dataclass
class _SplitScan:
    tallies: list[tuple[str, Tally]]
    sides: list[TextCounts] = field(default_factory=lambda: [TextCounts() for _ in SIDES])


@dataclass(frozen=True)
class _ScanSplit:
    """Scan one split; runs anywhere."""

    source: TextSource
    side_plan: SidePlan

    def __call__(self, split: TextSplit) -> _SplitScan:
        scan = _SplitScan([])
        for piece in split.pieces:
            tally = Tally()
            for block in self.source.read(TextSplit((piece,)), self.side_plan, tally):
                scan.sides[block.side].add(block.text, block.size, block.digest)
            scan.tallies.append((piece.name, tally))
        return scan


@dataclass(frozen=True)
class _Sample:
    """Some blocks of the training side of a split, chosen by content; runs anywhere."""

    source: TextSource
    side_plan: SidePlan
    share: float

    def __call__(self, split: TextSplit) -> list[str]:
        blocks = self.source.read(split, self.side_plan, Tally())
        return [
            block.text
            for block in blocks
            # The side was chosen by another hash of the text, so that this one says nothing of it.
            if block.side == 0 and int.from_bytes(block.digest[16:24], "big") / 2**64 < self.share
        ]


def scan_text(settings: Settings, engine: DataEngine, *, tokenizer: Mapping[str, bytes] | None = None) -> TextScan:
    """Read and check the text completely. Writes nothing.

    Args:
        settings: groups ``data``, ``model`` (tokenizer) and ``storage``.
        engine: where the text is read.
        tokenizer: files of the tokenizer; None: one is trained on the training side.

    Raises:
        SourceError: if the source cannot be found or read.
        DataError: if it is not text, or too short.
    """
    data = settings.data
    if data.max_rows:
        raise DataError(f"data.max_rows {data.max_rows} has no meaning for plain text: leave it at 0, or give less text")
    source = open_text(data, settings.storage)
    side_plan = SidePlan(data.seed, data.validation_fraction, data.test_fraction)
    results = engine.map(_ScanSplit(source.without_splits(), side_plan), source.splits, stage="scan")
    sides = {name: TextCounts() for name in SIDES}
    for result in results:
        for name, counts in zip(SIDES, result.sides, strict=True):
            sides[name].merge(counts)
    tallies = [tally for result in results for _, tally in result.tallies]
    bad, bad_rows = tuple(_bad(results)), sum(tally.bad_rows for tally in tallies)
    _check_bad(bad, bad_rows, sum(counts.blocks for counts in sides.values()), settings)
    _check_sides(sides, source, settings)
    files = dict(tokenizer) if tokenizer is not None else _trained(settings, engine, source, side_plan, sides["train"].size)
    _check_windows(sides, TextTokenizer.of(files), source, settings)
    return TextScan(
        source=source,
        side_plan=side_plan,
        sides=sides,
        lines=sum(tally.lines for tally in tallies),
        blank_blocks=sum(tally.blank for tally in tallies),
        bad_rows=bad_rows,
        bad=bad[:MAX_BAD_LISTED],
        tokenizer=files,
        tokenizer_trained=tokenizer is None,
    )


def _trained(
    settings: Settings, engine: DataEngine, source: TextSource, side_plan: SidePlan, train_bytes: int
) -> dict[str, bytes]:
    share = min(1.0, SAMPLE_BYTES / max(train_bytes, 1))
    samples = engine.map(_Sample(source.without_splits(), side_plan, share), source.splits, stage="tokenizer")
    texts = sorted(text for sample in samples for text in sample)
    model = settings.model
    return train_tokenizer(texts, kind=model.tokenizer_kind, vocabulary_size=model.vocabulary_size)


def _bad(results: Sequence[_SplitScan]) -> Iterator[BadRow]:
    """Bad blocks with the line of the whole file: a piece's lines come after those of the file's earlier pieces."""
    before: Counter[str] = Counter()
    for result in results:
        for name, tally in result.tallies:
            yield from (BadRow(name, before[name] + line, reason) for line, reason in tally.bad)
            before[name] += tally.lines


def _check_bad(bad: Sequence[BadRow], bad_blocks: int, good_blocks: int, settings: Settings) -> None:
    everything, most = bad_blocks + good_blocks, settings.data.max_bad_fraction
    if bad_blocks > most * everything:
        raise DataError(
            f"{bad_blocks} of {everything} blocks of text are bad, more than data.max_bad_fraction {most:g} allows: "
            f"{listed(bad, 5)}. Save the files as UTF-8, or raise data.max_bad_fraction"
        )
    if bad_blocks:
        log.warning("%d of %d blocks of text are bad and left out: %s", bad_blocks, everything, listed(bad, 3))


def _check_sides(sides: Mapping[str, TextCounts], source: TextSource, settings: Settings) -> None:
    data, blocks = settings.data, sum(counts.blocks for counts in sides.values())
    what = "documents" if source.by_document else f"blocks of about {source.block_bytes} bytes"
    empty = [name for name, counts in sides.items() if not counts.blocks]
    if not blocks:
        raise DataError(f"{source.name} holds white space alone: expected text in each of {', '.join(SIDES)}. Give more text")
    if empty:
        smaller = "split the text into more files" if source.by_document else "set a smaller data.block_bytes"
        raise DataError(
            f"The {' and the '.join(empty)} side of {source.name} has no text: expected some of its {blocks} {what} "
            f"to fall to it (data.validation_fraction {data.validation_fraction:g}, data.test_fraction "
            f"{data.test_fraction:g}), got none. Give more text, {smaller}, or another data.seed"
        )


def _check_windows(sides: Mapping[str, TextCounts], tokenizer: TextTokenizer, source: TextSource, settings: Settings) -> None:
    window, loaded = settings.data.window, tokenizer.load()
    lengths = {name: int(tokenizer.encode(loaded, [counts.longest]).lengths[0]) for name, counts in sides.items()}
    short = {name: length for name, length in lengths.items() if length <= window}
    if short:
        found = ", ".join(f"{length} on the {name} side" for name, length in short.items())
        raise DataError(
            f"{source.name} has too little text for one window on each side: expected a block of more than data.window {window} "
            f"tokens, got at most {found}. Lower data.window, raise data.block_bytes (now {source.block_bytes}) or give more text"
        )
