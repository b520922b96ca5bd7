"""The side that a row falls to, by a hash of its text alone."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass

SIDES = ("train", "validation", "test")


def row_digest(labels: tuple[str, ...], text: str) -> bytes:
    """32 bytes over the content of a row, and over nothing else."""
    return hashlib.sha256(_label_prefix(labels) + text.encode("utf-8")).digest()


@functools.lru_cache(maxsize=65_536)
def _label_prefix(labels: tuple[str, ...]) -> bytes:
    # JSON escapes line ends, so where the labels stop and the text begins is never in doubt.
    return json.dumps(labels, ensure_ascii=True).encode() + b"\n"


def text_id(text: str) -> bytes:
    """16 bytes that name a text."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:16]


@dataclass(frozen=True)
class SidePlan:
    """The rule by which a text falls to a side: its own hash and the seed, whatever other rows there are."""

    seed: int
    validation_fraction: float
    test_fraction: float

    def side_of(self, text: str) -> int:
        """Index into ``SIDES``."""
        return self.side_of_bytes(text.encode("utf-8"))

    def side_of_bytes(self, text: bytes) -> int:
        """The same for a text as UTF-8."""
        digest = hashlib.sha256(b"%d\n%b" % (self.seed, text)).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.test_fraction:
            return SIDES.index("test")
        return SIDES.index("validation" if place < self.test_fraction + self.validation_fraction else "train")
