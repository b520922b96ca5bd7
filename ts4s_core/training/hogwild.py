"""Strategy ``hogwild``: asynchronous updates to shared parameters, which the workers hold in slices.

Every rank owns the slices of the parameters, and the moments of them, that it would own in synchronous training. A step is:
gradient of the rank's own parts at the parameters it has; push each owner its slices of it; the owner updates them at once
and answers with what they have become. Nobody waits for a peer's step. Meanwhile other ranks' updates may have changed the
slices: their number is the update's *staleness*, which owners count and rank 0 reports.

W ranks make W updates where synchronous training makes one, so each is taken with 1 / W of the rate.

The result hangs on who came first: no hash is promised. Ranks join at every checkpoint and validation and at the end: all
wait until everybody's pushes are applied, and pull. So a checkpoint holds whole steps, with any number of workers one can
go on from it, and since one is made every half of ``train.checkpoint_every_steps``, and none is begun before the last is
sealed, a killed run loses no more than ``train.checkpoint_every_steps`` steps.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ts4s_core.training.checkpoint import Progressed
from ts4s_core.training.engine import StepStats
from ts4s_core.training.exchange import Exchange
from ts4s_core.training.flat import attach
from ts4s_core.training.hogwild_wire import SliceClient, SliceServer
from ts4s_core.training.optimiser import SlicedOptimiser
from ts4s_core.training.setup import Peers
from ts4s_core.training.strategy import Apart, LocalEngine, Parts


class SliceOwner:
    """One rank's slices of the parameters with their moments; updates come one at a time, in the order of arrival.

    Attributes:
        updates: that the slices have had.
        staleness: how many updates were how stale.
    """

    def __init__(self, exchange: Exchange, optimiser: SlicedOptimiser, *, updates: int) -> None:
        self.exchange = exchange
        self.optimiser = optimiser
        self.updates = updates
        self.staleness: Counter[int] = Counter()
        self._own = [slice(start, stop) for start, stop in self.exchange.slices]
        self._lock = threading.Lock()

    @property
    def elements(self) -> int:
        """Of all own slices."""
        return sum(own.stop - own.start for own in self._own)

    def serve(self, buffer: torch.Tensor, seen: int | None, rate: float, divisor: float) -> tuple[int, int]:
        """Apply the gradient in ``buffer`` (unless ``seen`` is None) and put the parameters there; see :class:`SliceServer`."""
        staleness = 0
        with self._lock:
            if seen is not None:
                self._copy(buffer, self.exchange.gradients, into_buffer=False)
                staleness = self.updates - seen
                self.staleness[staleness] += 1
                self.updates += 1
                self.optimiser.step(self.updates, learning_rate=rate, divisor=divisor)
            self._copy(buffer, self.exchange.parameters, into_buffer=True)
            return self.updates, staleness

    def _copy(self, buffer: torch.Tensor, buckets: list[torch.Tensor], *, into_buffer: bool) -> None:
        at = 0
        for own, flat in zip(self._own, buckets, strict=True):
            size = own.stop - own.start
            here, there = buffer[at : at + size], flat[own]
            if into_buffer:
                here.copy_(there)
            else:
                there.copy_(here)
            at += size


class RemoteSlices:
    """The optimiser of a rank's engine: a step is a push to every owner. One's own slices take no detour.

    Attributes:
        staleness: of the last step, mean over owners.
    """

    def __init__(self, local: Exchange, owner: SliceOwner, peers: Peers) -> None:
        self._local = local
        self._owner = owner
        self._peers = peers
        self._server = SliceServer(peers.address, secret=peers.secret, elements=owner.elements, serve=owner.serve)
        addresses = peers.gather("slices", list(self._server.address))
        self._clients = {
            rank: SliceClient(address, owner=rank, secret=peers.secret, timeout_s=peers.timeout_s)
            for rank, address in enumerate(addresses)
            if rank != peers.rank
        }
        self._slices = [local.layout.slices(rank, peers.world_size) for rank in range(peers.world_size)]
        self._seen = [owner.updates] * peers.world_size
        self._buffer = torch.zeros(owner.elements)
        self._pool = ThreadPoolExecutor(max(1, len(self._clients)), thread_name_prefix="slices")
        self.staleness = 0.0

    @property
    def moments(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """See :class:`Optimiser`: of the rank's own slices."""
        return self._owner.optimiser.moments

    def state(self) -> dict[str, torch.Tensor]:
        """See :meth:`Optimiser.state`: of the rank's own slices."""
        return self._owner.optimiser.state()

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """Push the local gradient to all owners at once, and take what they answer.

        Raises:
            WorkerLostError: if an owner does not answer in time.
        """
        rate = learning_rate / self._peers.world_size

        def push(rank: int) -> int:
            gradients, parameters = (self._of(rank, buckets) for buckets in (self._local.gradients, self._local.parameters))
            seen, client = self._seen[rank], self._clients.get(rank)
            if client is not None:
                self._seen[rank], stale = client.push(gradients, parameters, seen=seen, rate=rate, divisor=divisor)
                return stale
            torch.cat(gradients, out=self._buffer)
            self._seen[rank], stale = self._owner.serve(self._buffer, seen, rate, divisor)
            self._take(parameters)
            return stale

        stale = self._everywhere(push)
        self.staleness = sum(stale) / len(stale)

    def pull(self) -> None:
        """Make the local parameters what the owners have.

        Raises:
            WorkerLostError: if an owner does not answer in time.
        """

        def pull(rank: int) -> int:
            parameters, client = self._of(rank, self._local.parameters), self._clients.get(rank)
            if client is not None:
                self._seen[rank] = client.pull(parameters)
            else:
                self._seen[rank], _ = self._owner.serve(self._buffer, None, 0.0, 1.0)
                self._take(parameters)
            return 0

        self._everywhere(pull)

    def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            client.close()
        self._server.close()
        self._pool.shutdown(wait=False)

    def _everywhere(self, act: Any) -> list[int]:
        pending = [self._pool.submit(act, rank) for rank in self._clients]
        own = act(self._peers.rank)
        return [own, *(each.result() for each in pending)]

    def _of(self, rank: int, buckets: list[torch.Tensor]) -> list[torch.Tensor]:
        return [flat[start:stop] for flat, (start, stop) in zip(buckets, self._slices[rank], strict=True)]

    def _take(self, pieces: list[torch.Tensor]) -> None:
        at = 0
        for piece in pieces:
            piece.copy_(self._buffer[at : at + len(piece)])
            at += len(piece)


class Hogwild(Apart):
    """Steps apart on shared parameters; see the module."""

    joins_to_save = True

    def __init__(self, engine: LocalEngine, remote: RemoteSlices, owner: SliceOwner, peers: Peers) -> None:
        super().__init__(engine, peers)
        self._remote = remote
        self._owner = owner
        self._kept: dict[str, torch.Tensor] = {}
        self._staleness_before: Counter[int] = Counter()
        self._staleness_now: Counter[int] = Counter()

    def checkpoint_interval(self, every_steps: int) -> int:
        """See :meth:`Strategy.checkpoint_interval`: half, so that what a kill loses is bounded by the whole."""
        return max(1, every_steps // 2)

    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """See :meth:`Strategy.join`."""
        # Whoever brought this has no push under way: when all have, the owners' slices rest.
        told = self._peers.gather(f"join/{step}", self._told())
        self._remote.pull()
        self._kept = self._remote.state() if saving else {}
        counts = self._peers.gather(f"joined/{step}", sorted(self._owner.staleness.items()))
        self._staleness_now = sum((Counter(dict(rank)) for rank in counts), Counter(self._staleness_before))
        return self._together(told)

    def saved(self) -> dict[str, torch.Tensor]:
        """See :meth:`Strategy.saved`: the moments as of the join."""
        kept, self._kept = self._kept, {}
        return kept

    def facts(self) -> dict[str, Any]:
        """See :meth:`Strategy.facts`."""
        counts = self._staleness_now
        updates = counts.total()
        return {
            "reproducible": False,
            "staleness": {
                "mean": round(sum(stale * count for stale, count in counts.items()) / updates, 4) if updates else 0.0,
                "max": max(counts, default=0),
                "updates": updates,
                "histogram": {str(stale): counts[stale] for stale in sorted(counts)},
            },
        }

    def resume(self, facts: dict[str, Any]) -> None:
        """Count on from an earlier attempt's facts."""
        histogram = facts.get("staleness", {}).get("histogram", {})
        self._staleness_before = Counter({int(stale): int(count) for stale, count in histogram.items()})
        self._staleness_now = Counter(self._staleness_before)

    def close(self) -> None:
        """See :meth:`Strategy.close`."""
        super().close()
        self._remote.close()
        self._owner.exchange.close()

    def _staleness(self) -> float | None:
        return self._remote.staleness


def hogwild(parts: Parts) -> Hogwild:
    """The strategy for one rank, taken up where the checkpoint left it.

    Raises:
        IntegrityError: if the checkpoint does not fit.
        WorkerLostError: if a peer cannot be reached.
    """
    peers, checkpoint = parts.peers, parts.checkpoint
    local = parts.local_exchange()
    attach(parts.parameters, parts.layout.views(local.parameters), copy=True)
    exchange = Exchange(parts.layout, rank=peers.rank, world_size=peers.world_size, timeout_s=peers.timeout_s)
    for bucket, (start, stop) in enumerate(exchange.slices):
        exchange.parameters[bucket][start:stop] = local.parameters[bucket][start:stop]
    optimiser = parts.optimiser(exchange)
    progressed = Progressed()
    if checkpoint is not None:
        progressed = checkpoint.progressed()
        optimiser.restore(checkpoint)
    owner = SliceOwner(exchange, optimiser, updates=progressed.step * peers.world_size)
    remote = RemoteSlices(local, owner, peers)
    strategy = Hogwild(parts.local_engine(local, remote), remote, owner, peers)
    strategy.resume(progressed.strategy)
    return strategy
