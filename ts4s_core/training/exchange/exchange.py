"""What ranks exchange in a step, whichever way the bytes travel.

Every rank brings the sum of its own parts' gradients, which is one subtree of the fixed binary tree over all K parts; an
exchange sums those W subtrees in the same tree, each rank for its own slice. Addition of two numbers is the same in
either order, so only the tree matters, and that does not depend on W.

A thread does the reduction, so that a bucket's exchange runs while backward still works on the next one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ts4s_core.errors import Ts4sError, WorkerLostError
from ts4s_core.training.exchange.buckets import BLOCK, Layout, chunks

log = logging.getLogger(__name__)

#: Elements of every rank's ``gather`` vector beyond one a block: losses, counts and flags of the parts.
GATHER_MARGIN = 4_096 * 6 + 64


class Transport(Protocol):
    """How the bytes of a rank's buckets reach its peers, and theirs this rank.

    Attributes:
        rank: this rank.
        world_size: number of ranks.
        parameters: flat buckets of the parameters.
        gradients: flat buckets of this rank's gradients.
    """

    rank: int
    world_size: int
    parameters: list[torch.Tensor]
    gradients: list[torch.Tensor]

    def announce(self, bucket: int) -> None:
        """This rank's gradients of a bucket are complete."""

    def pieces(self, bucket: int) -> list[torch.Tensor]:
        """Every rank's gradient of this rank's slice of a bucket, in rank order; waits for them.

        Raises:
            WorkerLostError: if a peer does not bring its own in time.
        """

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """All ranks' vectors of numbers, all of one length, as (rank, value); also a barrier.

        Raises:
            WorkerLostError: if a peer does not bring its own in time.
        """

    def publish(self) -> None:
        """This rank's slices of the parameters were updated: return when every rank has those of all.

        Raises:
            WorkerLostError: if a peer does not bring its own in time.
        """


class PrivateBuckets:
    """The transport of a rank without peers: its slices are sums over its own parts.

    Args:
        layout: of the buckets.
        rank: which slices are this rank's.
        world_size: among how many the slices are dealt out.
        parameters: memory of the parameters; None: new, zeros.
        gradients: memory of the gradients; None: new, zeros.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        rank: int = 0,
        world_size: int = 1,
        parameters: list[torch.Tensor] | None = None,
        gradients: list[torch.Tensor] | None = None,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self.parameters = zero_buckets(layout) if parameters is None else parameters
        self.gradients = zero_buckets(layout) if gradients is None else gradients
        self._slices = layout.slices(rank, world_size)

    def announce(self, bucket: int) -> None:
        """Does nothing: there are no peers."""

    def pieces(self, bucket: int) -> list[torch.Tensor]:
        """This rank's own slice alone."""
        start, stop = self._slices[bucket]
        return [self.gradients[bucket][start:stop]]

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """This rank's own values alone, as (1, value)."""
        return values[None, :].copy()

    def publish(self) -> None:
        """Does nothing: there are no peers."""


#: So few are complete only when backward ends: there is nothing to overlap, and a thread would cost more than it does.
_FEW_BUCKETS = 2


class Exchange:
    """One rank's end of the exchange: sums its slices of every bucket over all ranks, while backward still runs.

    Args:
        layout: of the buckets.
        transport: holds the buckets, and brings the peers' share of them.
        timeout_s: longest wait for the peers.

    Attributes:
        parameters: flat buckets that the model's parameters are views of.
        gradients: flat buckets for this rank's sum over its own parts; after :meth:`collect` the rank's slices of them
            hold the sum over all parts.
        squares: after :meth:`collect` the sum of squares of every own block, in bucket order, of the buckets' type.
    """

    def __init__(self, layout: Layout, transport: Transport, *, timeout_s: float) -> None:
        self.layout = layout
        self.rank = transport.rank
        self.world_size = transport.world_size
        self.timeout_s = timeout_s
        self.slices = layout.slices(self.rank, self.world_size)
        self.parameters, self.gradients = transport.parameters, transport.gradients
        self._transport = transport
        self.squares: NDArray[np.floating] = np.zeros(0, np.float32)
        self._squares: list[NDArray[np.floating]] = [np.zeros(0, np.float32)] * len(layout.bucket_sizes)
        self._ready: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._reduced: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._waiting: list[int] = []
        self._thread: threading.Thread | None = None
        if len(layout.bucket_sizes) > _FEW_BUCKETS:
            self._thread = threading.Thread(target=self._reduce_all, name="gradient-exchange", daemon=True)
            self._thread.start()

    def bucket_done(self, bucket: int) -> None:
        """This rank's sum of a bucket is complete: its exchange may start. Every rank names buckets in the same order."""
        self._transport.announce(bucket)
        if self._thread is None:
            self._waiting.append(bucket)
        else:
            self._ready.put(bucket)

    def collect(self) -> None:
        """Wait until every bucket was summed over all ranks.

        Raises:
            WorkerLostError: if a peer does not bring its share in time.
        """
        if self._thread is None:
            for bucket in self._waiting:
                self._reduce(bucket)
            self._waiting.clear()
        else:
            self._await_thread()
        self.squares = np.concatenate(self._squares)

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Transport.gather`."""
        return self._transport.gather(values)

    def publish(self) -> None:
        """See :meth:`Transport.publish`."""
        self._transport.publish()

    def close(self) -> None:
        """Stop the thread. Shared memory goes with the last process that maps it."""
        if self._thread is not None:
            self._ready.put(None)
            self._thread.join(timeout=5)

    def _await_thread(self) -> None:
        failure: BaseException | None = None
        for _bucket in self.layout.bucket_sizes:
            try:
                failure = failure or self._reduced.get(timeout=2 * self.timeout_s)
            except queue.Empty:
                failure = WorkerLostError(f"Rank {self.rank} waited {2 * self.timeout_s:g} s for the gradients of its peers")
            if failure is not None:
                raise failure

    def _reduce_all(self) -> None:
        while (bucket := self._ready.get()) is not None:
            try:
                self._reduce(bucket)
                self._reduced.put(None)
            except BaseException as exc:
                if not isinstance(exc, Ts4sError):
                    log.exception("gradient exchange failed on rank %d", self.rank)
                self._reduced.put(exc)

    def _reduce(self, bucket: int) -> None:
        pieces = self._transport.pieces(bucket)
        start, stop = self.slices[bucket]
        out = self.gradients[bucket]
        squares = np.empty((stop - start) // BLOCK, out.numpy().dtype)
        for begin, end in chunks(start, stop):  # a chunk stays in the core's cache through all three passes
            target = out[begin:end]
            tree_sum([piece[begin - start : end - start] for piece in pieces], target)
            # Shortcuts below (a gradient that is not there is not added) may leave -0.0 where an addition gives 0.0.
            target.add_(0.0)
            squares[(begin - start) // BLOCK : (end - start) // BLOCK] = block_squares(target)
        self._squares[bucket] = squares


def zero_buckets(layout: Layout) -> list[torch.Tensor]:
    """Private flat buckets full of zeros."""
    return [torch.zeros(size, dtype=layout.dtype) for size in layout.bucket_sizes]


def tree_sum(pieces: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Sum a power of two of tensors in the complete binary tree over them; ``out`` may be one of them."""
    level = list(pieces)
    while len(level) > 2:
        level = [torch.add(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    if len(level) == 2:
        torch.add(level[0], level[1], out=out)
    elif level[0].data_ptr() != out.data_ptr():
        out.copy_(level[0])


def block_squares(values: torch.Tensor) -> NDArray[np.floating]:
    """Sum of squares of each block; einsum's bits for a block do not depend on how many blocks are in the call."""
    rows = values.numpy().reshape(-1, BLOCK)
    squares: NDArray[np.floating] = np.einsum("ij,ij->i", rows, rows)
    return squares


class GlobalSquares:
    """Puts the blocks' sums of squares, which ranks hold by slices, into the one global order."""

    def __init__(self, layout: Layout, world_size: int) -> None:
        owned = [layout.slices(rank, world_size) for rank in range(world_size)]
        self.width = max(sum((stop - start) // BLOCK for start, stop in slices) for slices in owned)
        places: list[NDArray[np.int64]] = []
        used = [0] * world_size
        for bucket in range(len(layout.bucket_sizes)):
            for rank in range(world_size):
                start, stop = owned[rank][bucket]
                count = (stop - start) // BLOCK
                places.append(rank * self.width + used[rank] + np.arange(count))
                used[rank] += count
        self._order = np.concatenate(places)

    def norm(self, gathered: NDArray[np.float64]) -> float:
        """Square root of the sum of (rank, width) squares, summed in global block order in float64."""
        return float(np.sqrt(np.sum(gathered.reshape(-1)[self._order])))
