"""Windows of a language model's dataset as training rows: offsets into token blocks, each with its next tokens as targets.

Legend: B windows, T tokens (the part's longest window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.training.batches.batch import Batch

#: Target that does not count: what PyTorch's cross-entropy leaves out.
NO_TARGET = -100
_COLUMNS = ("id", "input_ids", "starts")


def window_rows(store: ArtifactStore, ref: ArtifactRef) -> WindowRows:
    """The windows of a ``dataset`` artifact of running text."""
    return WindowRows(TextDataset.open(store, ref))


@dataclass(frozen=True)
class WindowBlock:
    """Windows over some blocks of tokens, which are held once however windows overlap.

    Attributes:
        tokens: all blocks' token ids, one after the other (int32).
        starts: where each window begins in ``tokens`` (int64).
        lengths: targets of each window, and so its inputs (int64).
        blocks: which block each window lies in.
        first: where that block begins in ``tokens`` (int64).
        ids: each block's 16 bytes.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    blocks: NDArray[np.int64]
    first: NDArray[np.int64]
    ids: Sequence[bytes]

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The windows' blocks in hex, each with the window's place in its block."""
        return [f"{self.ids[self.blocks[row]].hex()}+{self.starts[row] - self.first[row]}" for row in rows]

    def batch(self, rows: NDArray[np.int64], *, pad_id: int) -> Batch:
        """Some windows, padded to their longest; labels are (B, T), the token after each input."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        steps = np.arange(int(lengths.max()))[None, :]
        inside = steps < lengths[:, None]
        places = np.where(inside, starts[:, None] + steps, 0)
        inputs = np.where(inside, self.tokens[places], pad_id).astype(np.int64)
        targets = np.where(inside, self.tokens[places + inside], NO_TARGET).astype(np.int64)
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(inside.astype(np.int64)),
            torch.from_numpy(targets),
            int(lengths.sum()),
        )


class WindowRows:
    """Windows of a dataset artifact, streamed by row group."""

    def __init__(self, dataset: TextDataset) -> None:
        self.pad_id = dataset.pad_id
        self._dataset = dataset

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Windows of each row group of a side."""
        return self._dataset.windows_per_group(side)

    def read(self, side: str, groups: Sequence[int]) -> WindowBlock:
        """The windows of some row groups, in the order given."""
        table = pa.concat_tables(self._dataset.read_row_groups(side, groups, _COLUMNS)).combine_chunks()
        return window_block(table, window=self._dataset.window)


def window_block(table: pa.Table, *, window: int) -> WindowBlock:
    """The windows of a table of blocks (columns id, input_ids, starts)."""
    tokens, bounds = _flat(table.column("input_ids"))
    starts, window_bounds = _flat(table.column("starts"))
    blocks = np.repeat(np.arange(len(bounds) - 1), np.diff(window_bounds))
    first, stop = bounds[:-1][blocks], bounds[1:][blocks]
    absolute = first + starts
    lengths = np.minimum(window, stop - absolute - 1)
    return WindowBlock(tokens, absolute, lengths, blocks, first, table.column("id").to_pylist())


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The values of a list column, and where each row begins, one more at the end."""
    array = column.combine_chunks()
    bounds = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[bounds[0] : bounds[-1]]
    return values.astype(np.int32, copy=False), bounds - bounds[0]
