"""The exchange between ranks of one host: nothing is sent, every rank reads the others' memory.

One anonymous memory file holds the parameters (one copy for all ranks), a gradient buffer for each rank, and a few
counters. It is made with ``memfd_create`` and opened by the peers through ``/proc``: it has no name, so nothing stays
behind however the ranks end, and it is not bound to the size of ``/dev/shm`` (64 MB in many containers).

A rank sums its own slice straight out of the W gradient buffers into its own one (nobody else reads that range), steps
the optimiser on its slice of the shared parameters, and passes a barrier. There is no all-gather and no copy.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ts4s_core.errors import WorkerLostError
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.exchange import GATHER_MARGIN

_PAGE = 4_096
_SHORTEST_SLEEP_S, _LONGEST_SLEEP_S = 20e-6, 500e-6


class Segment:
    """The shared memory file, mapped into this process."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.map = mmap.mmap(descriptor, size)

    @classmethod
    def create(cls, size: int) -> tuple[Segment, int]:
        """Make the memory and map it; peers open ``address(descriptor)`` until the descriptor is closed.

        Raises:
            OSError: if this system has no anonymous memory files, or has not that much memory.
        """
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd_create")
        descriptor = os.memfd_create("ts4s-training", os.MFD_CLOEXEC)
        try:
            # Reserved now: otherwise a lack of memory would be a SIGBUS in the middle of a step.
            os.posix_fallocate(descriptor, 0, size)
            return cls(descriptor, size), descriptor
        except OSError:
            os.close(descriptor)
            raise

    @classmethod
    def attach(cls, address: str, size: int) -> Segment:
        """Map the memory that another process of this host made.

        Raises:
            OSError: if it cannot be reached or has another size.
        """
        descriptor = os.open(address, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != size:
                raise OSError(f"{address} has another size than {size}")
            return cls(descriptor, size)
        finally:
            os.close(descriptor)


def address_of(descriptor: int) -> str:
    """Where peers of this host find an open descriptor of this process."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def host_identity() -> str:
    """Same for processes that may share memory: boot and process-id namespace (containers of one host differ)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"no shared memory/{os.getpid()}"


class Regions:
    """Where things lie in the segment, in bytes."""

    def __init__(self, layout: Layout, world_size: int) -> None:
        self.bucket_bytes = layout.elements * layout.dtype.itemsize
        self.gather_width = layout.blocks + GATHER_MARGIN
        self.counters = self.bucket_bytes * (1 + world_size)
        self.counter_count = world_size * (len(layout.bucket_sizes) + 1)
        self.gather = self.counters + _up(self.counter_count * 8)
        self.size = self.gather + _up(2 * world_size * self.gather_width * 8)


class SharedMemory:
    """The transport through a :class:`Segment` that every rank has mapped; the parameters are one copy for all ranks."""

    def __init__(self, layout: Layout, segment: Segment, *, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size = rank, world_size
        self._timeout_s = timeout_s
        self._slices = layout.slices(rank, world_size)
        regions = Regions(layout, world_size)
        buckets = len(layout.bucket_sizes)
        memory = segment.map
        self._every_gradient = [buckets_at(memory, layout, regions.bucket_bytes * (1 + peer)) for peer in range(world_size)]
        self.parameters, self.gradients = buckets_at(memory, layout, 0), self._every_gradient[rank]
        counters = np.frombuffer(memory, np.int64, regions.counter_count, regions.counters)
        self._bucket_steps = counters[: world_size * buckets].reshape(world_size, buckets)
        self._gathers = counters[world_size * buckets :]
        self._slots = np.frombuffer(memory, np.float64, 2 * world_size * regions.gather_width, regions.gather).reshape(
            2, world_size, regions.gather_width
        )
        self._steps_done = [0] * buckets
        self._gathered = 0
        self._fence = threading.Lock()

    def announce(self, bucket: int) -> None:
        """See :meth:`Transport.announce`."""
        self._set(self._bucket_steps[self.rank], bucket, int(self._bucket_steps[self.rank, bucket]) + 1)

    def pieces(self, bucket: int) -> list[torch.Tensor]:
        """See :meth:`Transport.pieces`."""
        self._steps_done[bucket] += 1
        target = self._steps_done[bucket]
        for peer in range(self.world_size):
            self._wait(lambda peer=peer: int(self._bucket_steps[peer, bucket]) >= target, peer, "its gradients")  # type: ignore[misc]
        start, stop = self._slices[bucket]
        return [buckets[bucket][start:stop] for buckets in self._every_gradient]

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Transport.gather`. Two slots in turn: a rank is never more than one gather ahead of a peer."""
        self._gathered += 1
        slot = self._slots[self._gathered % 2]
        slot[self.rank, : len(values)] = values
        self._set(self._gathers, self.rank, self._gathered)
        target = self._gathered
        for peer in range(self.world_size):
            self._wait(lambda peer=peer: int(self._gathers[peer]) >= target, peer, "its numbers of this step")  # type: ignore[misc]
        copy: NDArray[np.float64] = slot[:, : len(values)].copy()
        return copy

    def publish(self) -> None:
        """See :meth:`Transport.publish`: the parameters are shared, so a barrier is all."""
        self.gather(np.zeros(0))

    def _set(self, counters: NDArray[np.int64], place: int, value: int) -> None:
        with self._fence:  # a lock is a memory barrier: what was written before is visible before the counter is
            counters[place] = value

    def _wait(self, arrived: Callable[[], bool], peer: int, what: str) -> None:
        pause = _SHORTEST_SLEEP_S
        deadline = time.monotonic() + self._timeout_s
        while not arrived():
            if time.monotonic() > deadline:
                raise WorkerLostError(f"Rank {self.rank} waited {self._timeout_s:g} s for rank {peer} to bring {what}")
            time.sleep(pause)
            pause = min(_LONGEST_SLEEP_S, 1.5 * pause)
        with self._fence:
            return


def buckets_at(memory: mmap.mmap, layout: Layout, offset: int) -> list[torch.Tensor]:
    """Flat buckets at an offset, in bytes, of mapped memory."""
    buckets = []
    for size in layout.bucket_sizes:
        buckets.append(torch.frombuffer(memory, dtype=layout.dtype, count=size, offset=offset))
        offset += size * layout.dtype.itemsize
    return buckets


def _up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
