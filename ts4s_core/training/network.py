"""The exchange between ranks of several hosts: gloo's all-to-all and all-gather over the executors' own network.

Traffic is that of one all-reduce: each rank sends every peer that peer's slice of a bucket, sums the W pieces it gets in
the fixed tree, and after its optimiser step sends its new weights to all.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store, TCPStore

from ts4s_core.errors import TrainingError, WorkerLostError
from ts4s_core.training.exchange import Exchange
from ts4s_core.training.flat import Layout


def make_store(address: str, *, timeout_s: float) -> tuple[TCPStore, int]:
    """Rank 0's rendezvous on a free port of ``address``; the port is for the peers."""
    store = TCPStore(
        address, 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=timeout_s), use_libuv=True
    )
    return store, store.port


def join_store(address: str, port: int, *, timeout_s: float) -> TCPStore:
    """A peer's view of rank 0's rendezvous."""
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=datetime.timedelta(seconds=timeout_s))


def make_group(store: Store, *, secret: str, rank: int, world_size: int, address: str, timeout_s: float) -> Any:
    """A gloo group bound to one interface, under keys that only this attempt's ranks know.

    Raises:
        TrainingError: if the ranks cannot reach each other.
    """
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = datetime.timedelta(seconds=timeout_s)
    try:
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        return ProcessGroupGloo(PrefixStore(secret, store), rank, world_size, options)
    except RuntimeError as exc:
        raise TrainingError(f"Rank {rank} cannot reach its peers from {address}: {exc}") from exc


class GlooExchange(Exchange):
    """Exchange over a gloo process group. Two of them: the reducing thread must not mix its order with the main thread's."""

    def __init__(self, layout: Layout, groups: tuple[Any, Any], *, rank: int, world_size: int, timeout_s: float) -> None:
        self._bucket_group, self._group = groups
        self._every_slice = [layout.slices(peer, world_size) for peer in range(world_size)]
        super().__init__(layout, rank=rank, world_size=world_size, timeout_s=timeout_s)

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Exchange.gather`."""
        everybody = [torch.empty(len(values), dtype=torch.float64) for _ in range(self.world_size)]
        self._finish(self._group.allgather([everybody], [torch.from_numpy(np.ascontiguousarray(values))]))
        return torch.stack(everybody).numpy()

    def publish(self) -> None:
        """See :meth:`Exchange.publish`: an all-to-all in which everybody sends its new weights to each peer."""
        pending = []
        for bucket, flat in enumerate(self.parameters):
            lengths = [slices[bucket][1] - slices[bucket][0] for slices in self._every_slice]
            start, stop = self.slices[bucket]
            received = torch.empty_like(flat)
            own = flat[start:stop].repeat(self.world_size)
            work = self._group.alltoall_base(received, own, lengths, [stop - start] * self.world_size)
            pending.append((work, flat, received))
        for work, flat, received in pending:
            self._finish(work)
            flat.copy_(received)

    def _pieces(self, bucket: int) -> list[torch.Tensor]:
        lengths = [slices[bucket][1] - slices[bucket][0] for slices in self._every_slice]
        own = lengths[self.rank]
        received = torch.empty(own * self.world_size, dtype=torch.float32)
        self._finish(self._bucket_group.alltoall_base(received, self.gradients[bucket], [own] * self.world_size, lengths))
        return list(received.view(self.world_size, own))

    def _finish(self, work: Any) -> None:
        try:
            work.wait()
        except RuntimeError as exc:
            raise WorkerLostError(f"Rank {self.rank} lost its peers: {exc}") from exc
