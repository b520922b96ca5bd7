"""Read all of the data once and check everything about them, before the first write."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ts4s_core.artifacts.versions.keys import canonical_json
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.formats.rows import MAX_BAD_LISTED, BadRow, Tally
from ts4s_core.data.sides import SIDES, SidePlan, row_digest
from ts4s_core.data.sources import DataSource, Split, open_source
from ts4s_core.errors import DataError, listed
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.registry import kind_of

log = logging.getLogger(__name__)

MAX_CLASSES = 100_000
#: A row of more lines is said.
MANY_LINES = 100
DIGEST_MODULUS = 2**256
_Candidate = tuple[bytes, int, tuple[str, ...], int]


@dataclass(frozen=True)
class Selection:
    """Which rows ``data.max_rows`` keeps: those whose digest comes before ``last``, and some copies of ``last`` itself."""

    last: bytes
    copies: int


@dataclass(frozen=True)
class Scan:
    """The result of scanning labelled data.

    Attributes:
        source: where they come from.
        side_plan: which side a text falls to.
        labels: every label, alphabetically: the classes.
        rows: number of good rows.
        sides: rows of each side.
        text_bytes: bytes of the texts of each side.
        label_rows: rows of each label, by side.
        lines: lines that were read (rows, where a format has no lines).
        blank_lines: wholly blank ones.
        bad_rows: number of bad rows.
        bad: the bad rows, by file and line (at most ``MAX_BAD_LISTED``).
        content: sum of the rows' digests.
        selection: what ``data.max_rows`` keeps; None: everything.
    """

    source: DataSource
    side_plan: SidePlan
    labels: tuple[str, ...]
    rows: int
    sides: dict[str, int]
    text_bytes: dict[str, int]
    label_rows: dict[str, dict[str, int]]
    lines: int
    blank_lines: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    content: int
    selection: Selection | None

    @property
    def fingerprint(self) -> str:
        """Hash over the multiset of rows (labels and text), whatever their order, files, side or time."""
        return fingerprint_of(self.rows, self.content)


def fingerprint_of(rows: int, content: int) -> str:
    """The fingerprint of rows whose digests add up to ``content``."""
    return hashlib.sha256(canonical_json({"rows": rows, "digests": f"{content % DIGEST_MODULUS:064x}"})).hexdigest()


@dataclass
class _Counts:
    """Rows by side and label, and the sum of the rows' digests."""

    rows: int = 0
    content: int = 0
    by_label: Counter[tuple[str, int]] = field(default_factory=Counter)
    by_side: Counter[int] = field(default_factory=Counter)
    text_bytes: Counter[int] = field(default_factory=Counter)

    def add(self, candidate: _Candidate) -> None:
        digest, side, labels, size = candidate
        self.rows += 1
        self.content += int.from_bytes(digest, "big")
        self.by_side[side] += 1
        self.text_bytes[side] += size
        for label in labels:
            self.by_label[label, side] += 1
        if len(self.by_label) > MAX_CLASSES * len(SIDES):
            raise _too_many_labels()

    def merge(self, other: _Counts) -> None:
        self.rows += other.rows
        self.content += other.content
        self.by_side.update(other.by_side)
        self.text_bytes.update(other.text_bytes)
        self.by_label.update(other.by_label)


@dataclass
class _SplitScan:
    tally: Tally
    counts: _Counts
    smallest: list[_Candidate]


@dataclass(frozen=True)
class _ScanSplit:
    """Scan one split; runs anywhere."""

    source: DataSource
    side_plan: SidePlan
    max_rows: int

    def __call__(self, split: Split) -> _SplitScan:
        tally, counts = Tally(), _Counts()
        smallest: list[_Candidate] = []
        rows = 0
        for row in self.source.read(split, tally):
            rows += 1
            digest, side = row_digest(row.labels, row.text), self.side_plan.side_of(row.text)
            candidate = (digest, side, row.labels, len(row.text.encode("utf-8")))
            if not self.max_rows:
                counts.add(candidate)
                continue
            smallest.append(candidate)
            if len(smallest) >= 2 * self.max_rows + 10_000:
                smallest = sorted(smallest)[: self.max_rows]
        counts.rows = rows
        return _SplitScan(tally, counts, sorted(smallest)[: self.max_rows])


def scan(settings: Settings, engine: DataEngine) -> Scan:
    """Read and check the data completely. Writes nothing.

    Raises:
        SourceError: if the source cannot be found or read.
        DataError: naming everything about the rows that training could not use.
    """
    data, kind = settings.data, kind_of(settings.model.task)
    if kind.labels == "none":
        raise DataError(f"Labelled data are not for model.task {kind.name}: use the {kind.flow} command")
    source = open_source(data, settings.storage, engine, multi_label=kind.labels == "many")
    side_plan = SidePlan(data.seed, data.validation_fraction, data.test_fraction)
    # Docstrings were chosen, balanced over the libraries, when the source was opened.
    max_rows = 0 if source.format == "docstrings" else data.max_rows
    results = engine.map(_ScanSplit(source.without_splits(), side_plan, max_rows), source.splits, stage="scan")
    read_rows = sum(result.counts.rows for result in results)
    bad = tuple(_bad_rows(source.splits, results))
    bad_rows = sum(result.tally.bad_rows for result in results)
    _check_bad(bad, results, settings)
    _log_longest(source.splits, results)
    if not read_rows:
        raise DataError(f"{_named(source)} has no rows: expected at least one row in each of {', '.join(SIDES)}. Give more data")
    counts, selection = _chosen(results, max_rows)
    labels = tuple(sorted({label for label, _ in counts.by_label}))
    _check_rows(labels, counts, source, settings)
    return Scan(
        source=source,
        side_plan=side_plan,
        labels=labels,
        rows=counts.rows,
        sides={name: counts.by_side[side] for side, name in enumerate(SIDES)},
        text_bytes={name: counts.text_bytes[side] for side, name in enumerate(SIDES)},
        label_rows={name: {label: counts.by_label[label, side] for label in labels} for side, name in enumerate(SIDES)},
        lines=sum(result.tally.lines for result in results),
        blank_lines=sum(result.tally.blank for result in results),
        bad_rows=bad_rows,
        bad=bad[:MAX_BAD_LISTED],
        content=counts.content % DIGEST_MODULUS,
        selection=selection,
    )


def _bad_rows(splits: Sequence[Split], results: Sequence[_SplitScan]) -> Iterator[BadRow]:
    """Bad rows with the line of the whole file: a split's lines come after those of the file's earlier splits."""
    name, before = "", 0
    for split, result in zip(splits, results, strict=True):
        if split.name != name:
            name, before = split.name, 0
        for line, reason in result.tally.bad:
            yield BadRow(name, before + line, reason)
        before += result.tally.lines


def _chosen(results: Sequence[_SplitScan], max_rows: int) -> tuple[_Counts, Selection | None]:
    counts = _Counts()
    if not max_rows:
        for result in results:
            counts.merge(result.counts)
        if len({label for label, _ in counts.by_label}) > MAX_CLASSES:
            raise _too_many_labels()
        return counts, None
    smallest = sorted(candidate for result in results for candidate in result.smallest)[:max_rows]
    for candidate in smallest:
        counts.add(candidate)
    last = smallest[-1][0]
    return counts, Selection(last, sum(candidate[0] == last for candidate in smallest))


def _log_longest(splits: Sequence[Split], results: Sequence[_SplitScan]) -> None:
    """Warn of a row that takes very many lines: it may hold other rows, if a quote is not closed in its place."""
    found = ((*result.tally.longest, split.name) for split, result in zip(splits, results, strict=True))
    lines, at, name = max(found, default=(0, 0, ""))
    if lines > MANY_LINES:
        log.warning("%s:%d is a row of %d lines: if it should be shorter, a quote is not closed in its place", name, at, lines)


def _check_bad(bad: Sequence[BadRow], results: Sequence[_SplitScan], settings: Settings) -> None:
    """Refuse too many bad rows, or too many lines that are lost to them: one quote that is not closed may swallow hundreds."""
    tallies = [result.tally for result in results]
    bad_rows, bad_lines = sum(tally.bad_rows for tally in tallies), sum(tally.bad_lines for tally in tallies)
    everything = bad_rows + sum(result.counts.rows for result in results)
    lines = sum(tally.lines - tally.blank for tally in tallies)
    if not bad_rows:
        return
    most = settings.data.max_bad_fraction
    if bad_lines > bad_rows and bad_lines > most * lines:
        raise DataError(
            f"{bad_lines} of {lines} lines are lost to {bad_rows} bad rows, more than data.max_bad_fraction {most:g} allows: "
            f"{listed(bad, 5)}. Correct them, or raise data.max_bad_fraction"
        )
    if bad_rows > most * everything:
        raise DataError(
            f"{bad_rows} of {everything} rows are bad, more than data.max_bad_fraction {most:g} allows: "
            f"{listed(bad, 5)}. Correct them, or raise data.max_bad_fraction"
        )
    log.warning("%d of %d rows are bad and left out: %s", bad_rows, everything, listed(bad, 3))


def _check_rows(labels: Sequence[str], counts: _Counts, source: DataSource, settings: Settings) -> None:
    problems, classes = [], settings.model.classes
    if len(labels) < 2:
        problems.append(
            f"All {counts.rows} rows of {_named(source)} have one label, {labels[0]!r:.100}: expected two labels or more. "
            "Add rows of another label"
        )
    elif classes and classes != len(labels):
        problems.append(
            f"model.classes is {classes}, but {_named(source)} has {len(labels)} labels ({listed(labels)}): "
            f"set model.classes {len(labels)}, or 0 to take the number from the data"
        )
    data = settings.data
    for side, name in enumerate(SIDES):
        if counts.by_side[side]:
            continue
        share = 1 - data.test_fraction - data.validation_fraction
        fraction = {"test": data.test_fraction, "validation": data.validation_fraction}.get(name, share)
        problems.append(
            f"The {name} side is empty: expected at least 1 of {counts.rows} rows to fall to its share of {fraction:g}, got 0. "
            f"Give more rows{'' if name == 'train' else f', a larger data.{name}_fraction'} or another data.seed"
        )
    if problems:
        raise DataError("; ".join(problems))


def _named(source: DataSource) -> str:
    return f"data.source {source.files.source}" if source.files.source else "the docstrings"


def _too_many_labels() -> DataError:
    return DataError(
        f"The data have more than {MAX_CLASSES} different labels: expected at most that many classes. "
        "Is the text in the label column? See data.label_column and data.text_column"
    )
