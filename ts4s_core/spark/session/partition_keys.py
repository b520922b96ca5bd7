"""Keys by which Spark's own hash partitioning sends each group to a partition of its own.

``DataFrame.repartition(n, "key")`` puts a row into partition ``pmod(murmur3(key), n)``, in every version since 2.0, classic
and Connect. A group's key is the smallest whole number that falls into the group's partition.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_SEED = 42
_CHUNK = 1 << 14


def murmur3(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Spark's hash of 32-bit integers (MurmurHash3 x86_32 by Austin Appleby, one block of four bytes)."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint32) * np.uint32(0xCC9E2D51)
        mixed = _rotated(mixed, 15) * np.uint32(0x1B873593)
        hashed = _rotated(np.uint32(_SEED) ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        hashed ^= np.uint32(4)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            hashed = (hashed ^ (hashed >> np.uint32(shift))) * np.uint32(factor)
        hashed ^= hashed >> np.uint32(16)
    return hashed.view(np.int32)


def _rotated(numbers: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (numbers << np.uint32(by)) | (numbers >> np.uint32(32 - by))


@functools.cache
def partition_keys(partitions: int) -> tuple[int, ...]:
    """A key for each of so many partitions, in order."""
    keys = np.full(partitions, -1, np.int64)
    start = 0
    while (keys < 0).any():
        numbers = np.arange(start, start + _CHUNK, dtype=np.int32)
        found, first = np.unique(np.mod(murmur3(numbers).astype(np.int64), partitions), return_index=True)
        missing = keys[found] < 0
        keys[found[missing]] = numbers[first[missing]]
        start += _CHUNK
    return tuple(keys.tolist())
