"""Rows as they are read, and as the model takes them.

Legend: B rows, T tokens (the part's longest row), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ts4s_core.models.length_batches import padded_flat


class PartBatch(Protocol):
    """One part of a global batch, ready for the module; its rows may be texts or tables."""

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The positional arguments of the module's forward."""
        ...

    @property
    def labels(self) -> torch.Tensor:
        """What the objective compares the outputs with."""
        ...

    @property
    def tokens(self) -> int:
        """Real tokens, or rows."""
        ...

    @property
    def padded_tokens(self) -> int:
        """The same with padding."""
        ...


class Block(Protocol):
    """Rows that were read together."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row: its cost."""
        ...

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The rows' sample ids in hex."""
        ...

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> PartBatch:
        """Some rows as one part."""
        ...


@dataclass(frozen=True)
class RowBlock:
    """Some rows, held flat.

    Attributes:
        tokens: all rows' token ids, one after the other (int32).
        offsets: where each row begins, one more at the end (int64).
        labels: (rows,) int64 class numbers, or (rows, C) float32 for multi-label.
        ids: each row's 16 bytes.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | NDArray[np.float32]
    ids: Sequence[bytes]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The rows' sample ids in hex."""
        return [self.ids[row].hex() for row in rows]

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> Batch:
        """Some rows, padded to their longest."""
        return collate(self, rows, pad_id=pad_id)


@dataclass(frozen=True)
class Batch:
    """One part, padded to its longest row.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64, 1 for a token.
        labels: (B,) int64, or (B, C) float32.
        tokens: real tokens.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    tokens: int

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """``input_ids, attention_mask``."""
        return self.input_ids, self.attention_mask

    @property
    def padded_tokens(self) -> int:
        """B x T."""
        return self.input_ids.numel()


def collate(block: RowBlock, rows: NDArray[np.int64], *, pad_id: int) -> Batch:
    """Pad some rows of a block to their longest."""
    starts, lengths = block.offsets[rows], block.lengths[rows]
    places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    input_ids, mask = padded_flat(block.tokens[places], lengths, pad_id=pad_id)
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(mask),
        torch.from_numpy(np.ascontiguousarray(block.labels[rows])),
        int(lengths.sum()),
    )
