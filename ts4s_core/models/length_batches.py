"""Texts of like length in one batch, and padding: the same for every form of a model.

Shapes: ``B`` texts, ``T`` tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
#: Rows of a batch at most, unless its caller knows better.
ROWS_PER_BATCH = 64


def length_batches(lengths: Sequence[int] | Ids, *, tokens: int, rows: int | None = ROWS_PER_BATCH) -> Iterator[Ids]:
    """Texts of like length together, longest first, each batch bounded in padded tokens and in rows.

    Args:
        lengths: tokens of each text.
        tokens: padded tokens of a batch at most, unless one text alone has more; bounds the memory of activations.
        rows: texts of a batch at most; None: any number.

    Yields:
        positions of a batch's texts; every text once.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        most = max(1, tokens // max(int(sizes[order[start]]), 1))
        stop = start + (most if rows is None else min(rows, most))
        yield order[start:stop]
        start = stop


def padded(tokens: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Ids, Ids]:
    """Ids and mask ``(B, T)`` of some texts, padded on the right to the longest."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    return padded_flat(np.fromiter(itertools.chain.from_iterable(tokens), np.int64, int(lengths.sum())), lengths, pad_id=pad_id)


def padded_flat(tokens: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer], *, pad_id: int) -> tuple[Ids, Ids]:
    """Ids and mask ``(B, T)`` of texts whose tokens stand one after the other, padded on the right to the longest.

    Args:
        tokens: of all texts.
        lengths: tokens of each, (B,).
        pad_id: token of the padding.
    """
    inside = np.arange(max(1, int(lengths.max()))) < lengths[:, None]
    ids = np.full(inside.shape, pad_id, np.int64)
    ids[inside] = tokens
    return ids, inside.astype(np.int64)
