"""What a fuzzing target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutations import Mutator, by_bytes


@dataclass(frozen=True)
class Target:
    """Something that reads files from outside.

    Attributes:
        seeds: files that it takes, to begin with.
        read: give it a file's bytes and an empty folder to work in; an error of ours is an answer.
        change: makes another file of one.
        words: byte strings that its readers look for.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    change: Mutator = by_bytes
    words: tuple[bytes, ...] = ()
