"""The dataset's card: counts and distributions of its rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ts4s_core.data.scan import DIGEST_MODULUS, Scan

MAX_EXAMPLES = 10
EXAMPLE_CHARS = 120
HISTOGRAM_BINS = 16


@dataclass
class GroupCounts:
    """Counts that add up over groups of rows.

    Attributes:
        rows: number of rows.
        content: sum of the rows' digests.
        truncated: rows that were cut to ``max_length`` tokens.
        duplicates: rows that repeat an earlier one, text and label.
        conflicting_texts: texts that occur with different labels.
        conflicting_rows: rows with such a text.
        lengths: rows by number of tokens.
        conflicts: the first such texts, with their labels.
    """

    rows: int = 0
    content: int = 0
    truncated: int = 0
    duplicates: int = 0
    conflicting_texts: int = 0
    conflicting_rows: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    conflicts: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, other: GroupCounts) -> None:
        """Add another group's counts."""
        for name in ("rows", "content", "truncated", "duplicates", "conflicting_texts", "conflicting_rows"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.content %= DIGEST_MODULUS
        self.lengths.update(other.lengths)
        self.conflicts = (self.conflicts + other.conflicts)[:MAX_EXAMPLES]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "content": f"{self.content:x}", "lengths": sorted(self.lengths.items())}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GroupCounts:
        """What :meth:`to_json` wrote."""
        return cls(**{**record, "content": int(record["content"], 16), "lengths": Counter(dict(record["lengths"]))})


def merge_counts(groups: Iterable[GroupCounts]) -> GroupCounts:
    """The counts of several groups together."""
    total = GroupCounts()
    for group in groups:
        total.merge(group)
    return total


def count_group(table: pa.Table, digests: Sequence[bytes], labels: Sequence[str]) -> GroupCounts:
    """Counts of rows in canonical order.

    Args:
        table: columns id, label, length, text, truncated.
        digests: the rows' digests.
        labels: names of the labels.
    """
    counts = GroupCounts(
        rows=table.num_rows,
        content=sum(int.from_bytes(digest, "big") for digest in digests) % DIGEST_MODULUS,
        truncated=int(np.count_nonzero(table.column("truncated").to_numpy())),
        lengths=Counter(table.column("length").to_pylist()),
    )
    cells = table.column("label").to_pylist()
    for _, rows in groupby(range(table.num_rows), key=table.column("id").to_pylist().__getitem__):
        places = list(rows)
        if len(places) == 1:
            continue
        different = {digests[row] for row in places}
        counts.duplicates += len(places) - len(different)
        if len(different) == 1:
            continue
        counts.conflicting_texts += 1
        counts.conflicting_rows += len(places)
        if len(counts.conflicts) < MAX_EXAMPLES:
            found = {str(cells[row]): _names(cells[row], labels) for row in places}
            text = str(table.column("text")[places[0]].as_py())
            counts.conflicts.append({"text": text[:EXAMPLE_CHARS], "labels": list(found.values())})
    return counts


def _names(cell: int | list[int], labels: Sequence[str]) -> str | list[str]:
    return labels[cell] if isinstance(cell, int) else [labels[number] for number in cell]


def card_of(scan: Scan, by_side: Mapping[str, GroupCounts], *, max_length: int) -> dict[str, Any]:
    """The card: nothing in it depends on a path, a time or the order of the rows."""
    total = merge_counts(by_side.values())
    return {
        "fingerprint": scan.fingerprint,
        "rows": total.rows,
        "sides": {name: counts.rows for name, counts in by_side.items()},
        "labels": scan.label_rows,
        "lines": scan.lines,
        "blank_lines": scan.blank_lines,
        "bad_rows": scan.bad_rows,
        "duplicates": total.duplicates,
        "conflicting_texts": total.conflicting_texts,
        "conflicting_rows": total.conflicting_rows,
        "conflicts": total.conflicts,
        "max_length": max_length,
        "truncated": total.truncated,
        "tokens": sum(length * rows for length, rows in total.lengths.items()),
        "lengths": {name: _lengths(counts.lengths, max_length) for name, counts in {"all": total, **by_side}.items()},
    }


def _lengths(lengths: Mapping[int, int], max_length: int) -> dict[str, Any]:
    """Figures of the number of tokens, and a histogram in bins of equal width."""
    values, counts = np.array(sorted(lengths)), np.array([lengths[value] for value in sorted(lengths)])
    reached = np.cumsum(counts)
    width = -(-max_length // HISTOGRAM_BINS)
    bins: Counter[int] = Counter()
    for value, count in lengths.items():
        bins[(value - 1) // width] += count
    return {
        "min": int(values[0]),
        "mean": round(float((values * counts).sum() / reached[-1]), 3),
        "median": int(values[np.searchsorted(reached, reached[-1] / 2)]),
        "p95": int(values[np.searchsorted(reached, reached[-1] * 0.95)]),
        "max": int(values[-1]),
        "histogram": [
            {"from": number * width + 1, "to": min((number + 1) * width, max_length), "rows": bins[number]}
            for number in range(-(-max_length // width))
        ],
    }
