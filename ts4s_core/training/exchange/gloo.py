"""The exchange between ranks of several hosts: messages over gloo, on the executors' own network.

Traffic is that of one all-reduce: each rank sends every peer that peer's slice of a bucket, sums the W pieces it gets in
the fixed tree, and after its optimiser step sends its new weights to all. Messages go straight out of the buckets, and new
weights straight into them: gloo's own all-to-all would need them copied together before, and apart after.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.distributed_c10d import ProcessGroupGloo, Store

from ts4s_core.errors import TrainingError, WorkerLostError
from ts4s_core.torch_internals import gloo_options
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.exchange import zero_buckets


class AddressStore(Store):
    """The rendezvous of a gloo group without a server of its own: what a rank sets, every rank gets by a gather of its peers.

    Gloo's ranks each set their own address, and then wait for the others'. A store of torch's would listen for that on a port
    that lists and deletes its keys for anybody; this one goes the way of all that ranks tell each other.

    Args:
        gather: everybody's value under a key, in rank order.
        name: of the group; every rank makes its groups under the same names.
    """

    def __init__(self, gather: Callable[[str, Any], list[Any]], name: str) -> None:
        super().__init__()
        self._gather = gather
        self._name = name
        self._rounds = 0
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str | bytes) -> None:
        """Set this rank's value; returns when every rank has set one."""
        self._rounds += 1
        raw = value.encode() if isinstance(value, str) else value
        mine = [key, base64.b64encode(raw).decode()]
        for their_key, their_value in self._gather(f"gloo/{self._name}/{self._rounds}", mine):
            self._values[their_key] = base64.b64decode(their_value)

    def get(self, key: str) -> bytes:
        """A value that some rank has set."""
        return self._values[key]

    def wait(self, keys: list[str], _timeout: datetime.timedelta | None = None) -> None:
        """Check that values are there: all ranks' values are when :meth:`set` has returned.

        Raises:
            KeyError: if one is not.
        """
        missing = [key for key in keys if key not in self._values]
        if missing:
            raise KeyError(f"gloo asks for {missing}, which no rank has set")


def make_group(store: Store, *, rank: int, world_size: int, address: str, timeout_s: float) -> Any:
    """A gloo group bound to one interface; ``store`` is used until this returns.

    Raises:
        TrainingError: if the ranks cannot reach each other.
    """
    try:
        return ProcessGroupGloo(store, rank, world_size, gloo_options(address=address, timeout_s=timeout_s))
    except RuntimeError as exc:
        raise TrainingError(f"Rank {rank} cannot reach its peers from {address}: {exc}") from exc


class Gloo:
    """The transport over a gloo process group. Two of them: the reducing thread must not mix its order with the main thread's."""

    def __init__(self, layout: Layout, groups: tuple[Any, Any], *, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.parameters, self.gradients = zero_buckets(layout), zero_buckets(layout)
        self._bucket_group, self._group = groups
        self._every_slice = [layout.slices(peer, world_size) for peer in range(world_size)]
        # In an order of each rank's own, so that not all send to one peer at a time.
        self._peers = [(rank + step) % world_size for step in range(1, world_size)]
        longest = max(stop - start for start, stop in self._every_slice[rank])
        self._received = {peer: torch.empty(longest, dtype=layout.dtype) for peer in self._peers}

    def announce(self, bucket: int) -> None:
        """Nothing: peers do not read this rank's memory."""

    def pieces(self, bucket: int) -> list[torch.Tensor]:
        """See :meth:`Transport.pieces`."""
        flat = self.gradients[bucket]
        sent = {peer: flat[slice(*self._every_slice[peer][bucket])] for peer in self._peers}
        own = flat[slice(*self._every_slice[self.rank][bucket])]
        received = {peer: self._received[peer][: len(own)] for peer in self._peers}
        self._finish(self._swap(self._bucket_group, bucket, sent=sent, received=received))
        return [received.get(peer, own) for peer in range(self.world_size)]

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Transport.gather`."""
        everybody = [torch.empty(len(values), dtype=torch.float64) for _ in range(self.world_size)]
        self._finish([self._group.allgather([everybody], [torch.from_numpy(np.ascontiguousarray(values))])])
        return torch.stack(everybody).numpy()

    def publish(self) -> None:
        """See :meth:`Transport.publish`."""
        pending = []
        for bucket, flat in enumerate(self.parameters):
            own = flat[slice(*self._every_slice[self.rank][bucket])]
            theirs = {peer: flat[slice(*self._every_slice[peer][bucket])] for peer in self._peers}
            pending += self._swap(self._group, bucket, sent=dict.fromkeys(self._peers, own), received=theirs)
        self._finish(pending)

    def _swap(self, group: Any, bucket: int, *, sent: dict[int, torch.Tensor], received: dict[int, torch.Tensor]) -> list[Any]:
        """Begin to send each peer its tensor and to receive one from it; an empty one is no message. What is to be waited for."""
        pending = []
        try:
            for peer in self._peers:
                for post, tensor in ((group.recv, received[peer]), (group.send, sent[peer])):
                    if len(tensor):
                        pending.append(post([tensor], peer, bucket))
            return pending
        except RuntimeError as exc:
            raise WorkerLostError(f"Rank {self.rank} lost its peers: {exc}") from exc

    def _finish(self, pending: list[Any]) -> None:
        try:
            for work in pending:
                work.wait()
        except RuntimeError as exc:
            raise WorkerLostError(f"Rank {self.rank} lost its peers: {exc}") from exc
