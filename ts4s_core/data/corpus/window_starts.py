"""Sliding windows over a block's tokens, as offsets: pure functions of the number of tokens.

A window that starts at ``s`` has inputs ``s .. s + window - 1`` and, for each, the next token as its target. So windows
``stride <= window`` apart have every token of the block but its first as a target, and the last one may be short.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def windows_of(tokens: NDArray[np.integer], *, window: int, stride: int) -> NDArray[np.int64]:
    """Number of windows of blocks with so many tokens; a block of one token has nothing to predict."""
    targets = np.asarray(tokens, np.int64) - 1
    return np.where(targets <= 0, 0, 1 + np.maximum(0, -(-(targets - window) // stride)))


def starts_of(tokens: NDArray[np.integer], *, window: int, stride: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Where the windows of some blocks start, each within its block, and the number of each block's windows."""
    counts = windows_of(tokens, window=window, stride=stride)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return ((np.arange(int(counts.sum())) - first) * stride).astype(np.int32), counts
