"""Strategy ``hogwild``: asynchronous updates to shared parameters, which the workers hold in slices.

Every rank owns the slices of the parameters, and the moments of them, that it would own in synchronous training. A step is:
gradient of the rank's own parts at the parameters it has; push each owner its slices of it; the owner updates them at once
and answers with what they have become. Nobody waits for a peer's step. Meanwhile other ranks' updates may have changed the
slices: their number is the update's *staleness*, which owners count and rank 0 reports. Slices travel over TCP; between ranks
of one host only the numbers do, gradients and parameters are shared memory.

W ranks make W updates where synchronous training makes one, so each is taken with 1 / W of the rate.

The result depends on who came first: no hash is promised. Ranks join at every checkpoint and validation and at the end: all
wait until everybody's pushes are applied, and pull. So a checkpoint holds whole steps, with any number of workers one can
go on from it, and since one is made every half of ``train.checkpoint_every_steps``, and none is begun before the last is
sealed, a killed run loses no more than ``train.checkpoint_every_steps`` steps.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from ts4s_core.training.batches.read_ahead import PlannedStep
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.checkpoints.training_progress import TrainingProgress
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.connect import share
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.exchange.shared_memory import Regions, Segment, buckets_at
from ts4s_core.training.facts import Staleness, StrategyFacts
from ts4s_core.training.optimizers.adamw import SlicedOptimizer
from ts4s_core.training.step.engine import StepStats
from ts4s_core.training.step.independent_engine import IndependentEngine
from ts4s_core.training.step.setup import TrainingSetup
from ts4s_core.training.strategies.hogwild_wire import Request, SliceClient, SliceServer
from ts4s_core.training.strategies.independent import IndependentStrategy


class Shared:
    """Memory that all ranks of one host have mapped: the parameters, and each rank's gradients."""

    def __init__(self, layout: Layout, segment: Segment, world_size: int) -> None:
        size = Regions(layout, world_size).bucket_bytes
        self.parameters = buckets_at(segment.map, layout, 0)
        self.gradients = [buckets_at(segment.map, layout, size * (1 + rank)) for rank in range(world_size)]


class SliceOwner:
    """One rank's slices of the parameters with their moments; updates come one at a time, in the order of arrival.

    Attributes:
        updates: that the slices have had.
        staleness: how many updates were how stale.
    """

    def __init__(self, exchange: Exchange, optimizer: SlicedOptimizer, *, updates: int, shared: Shared | None = None) -> None:
        self.exchange = exchange
        self.optimizer = optimizer
        self.updates = updates
        self.staleness: Counter[int] = Counter()
        self._shared = shared
        self._lock = threading.Lock()

    @property
    def elements(self) -> int:
        """Of all own slices."""
        return sum(stop - start for start, stop in self.exchange.slices)

    def serve(self, request: Request, buffer: torch.Tensor) -> tuple[int, int]:
        """Apply the gradient in ``buffer`` (unless it is a pull) and put the parameters there; see :data:`Serve`.

        With shared memory the buffer is not used: the gradient is read, and the parameters are written, where they are.
        """
        shared, exchange, stale = self._shared, self.exchange, 0
        with self._lock:
            if request.seen is not None:
                gradients = own_pieces(exchange.gradients, exchange.slices)
                if shared is None:
                    _scatter(buffer, gradients)
                else:
                    for piece, theirs in zip(gradients, own_pieces(shared.gradients[request.rank], exchange.slices), strict=True):
                        piece.copy_(theirs)
                stale = self.updates - request.seen
                self.staleness[stale] += 1
                self.updates += 1
                self.optimizer.step(self.updates, learning_rate=request.rate, divisor=request.divisor)
            if shared is None:
                torch.cat(own_pieces(exchange.parameters, exchange.slices), out=buffer)
            return self.updates, stale


class RemoteSlices:
    """The optimiser of a rank's engine: a step is a push to every owner. One's own slices take no detour.

    Attributes:
        staleness: of the last step, mean over owners.
    """

    def __init__(self, local: Exchange, owner: SliceOwner, peers: Peers, *, shared: Shared | None = None) -> None:
        self._local = local
        self._owner = owner
        self._peers = peers
        self._shared = shared
        elements = owner.elements if shared is None else 0
        self._server = SliceServer(
            peers.address, secret=peers.secret, elements=elements, serve=owner.serve, timeout_s=peers.timeout_s
        )
        addresses = peers.gather("slices", list(self._server.address))
        self._clients = {
            rank: SliceClient(address, owner=rank, secret=peers.secret, timeout_s=peers.timeout_s)
            for rank, address in enumerate(addresses)
            if rank != peers.rank
        }
        self._slices = [local.layout.slices(rank, peers.world_size) for rank in range(peers.world_size)]
        self._seen = [owner.updates] * peers.world_size
        self._buffer = torch.zeros(elements)
        self._pool = ThreadPoolExecutor(max(1, len(self._clients)), thread_name_prefix="slices")
        self.staleness = 0.0

    @property
    def moments(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """See :class:`Optimizer`: of the rank's own slices."""
        return self._owner.optimizer.moments

    def state(self) -> dict[str, torch.Tensor]:
        """See :meth:`Optimizer.state`: of the rank's own slices."""
        return self._owner.optimizer.state()

    def step(self, number: int, *, learning_rate: float, divisor: float) -> None:
        """Push the local gradient to all owners at once, and take what they answer.

        Raises:
            WorkerLostError: if an owner does not answer in time.
        """
        rate = learning_rate / self._peers.world_size
        stale = self._everywhere(lambda owner: Request(self._peers.rank, self._seen[owner], rate, divisor))
        self.staleness = sum(stale) / len(stale)

    def pull(self) -> None:
        """Make the local parameters what the owners have.

        Raises:
            WorkerLostError: if an owner does not answer in time.
        """
        self._everywhere(lambda _owner: Request(self._peers.rank, None))

    def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            client.close()
        self._server.close()
        self._pool.shutdown(wait=False)

    def _everywhere(self, request: Callable[[int], Request]) -> list[int]:
        """Ask every owner at once; how stale each found the gradient."""
        pending = [self._pool.submit(self._ask, owner, request(owner)) for owner in self._clients]
        own = self._ask(self._peers.rank, request(self._peers.rank))
        return [own, *(each.result() for each in pending)]

    def _ask(self, owner: int, request: Request) -> int:
        slices, client = self._slices[owner], self._clients.get(owner)
        gradients = own_pieces(self._local.gradients, slices) if request.seen is not None else []
        parameters = own_pieces(self._local.parameters, slices)
        if self._shared is not None:
            answer = client.ask(request, (), ()) if client else self._owner.serve(request, self._buffer)
            for piece, theirs in zip(parameters, own_pieces(self._shared.parameters, slices), strict=True):
                piece.copy_(theirs)
        elif client is not None:
            answer = client.ask(request, gradients, parameters)
        else:
            if gradients:
                torch.cat(gradients, out=self._buffer)
            answer = self._owner.serve(request, self._buffer)
            _scatter(self._buffer, parameters)
        self._seen[owner] = answer[0]
        return answer[1]


def own_pieces(buckets: Sequence[torch.Tensor], slices: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """A slice of each bucket."""
    return [flat[start:stop] for flat, (start, stop) in zip(buckets, slices, strict=True)]


def _scatter(buffer: torch.Tensor, pieces: Sequence[torch.Tensor]) -> None:
    at = 0
    for piece in pieces:
        piece.copy_(buffer[at : at + len(piece)])
        at += len(piece)


class Hogwild(IndependentStrategy):
    """Asynchronous steps on shared parameters; see the module."""

    joins_to_save = True

    def __init__(self, engine: IndependentEngine, remote: RemoteSlices, owner: SliceOwner, peers: Peers) -> None:
        super().__init__(engine, peers)
        self._remote = remote
        self._owner = owner
        self._kept: dict[str, torch.Tensor] = {}
        self._staleness_before: Counter[int] = Counter()
        self._staleness_now: Counter[int] = Counter()

    def checkpoint_interval(self, every_steps: int) -> int:
        """See :meth:`Strategy.checkpoint_interval`: half, so that what a kill loses is bounded by the whole."""
        return max(1, every_steps // 2)

    def joins_after(self, planned: PlannedStep) -> bool:
        """Never of its own accord: validations, checkpoints and the end join."""
        return False

    def join(self, step: int, *, saving: bool) -> dict[int, StepStats]:
        """See :meth:`Strategy.join`."""
        # Whoever brought this has no push under way: when all have, the owners' slices rest.
        contributions = self._gather_contributions(step)
        self._remote.pull()
        self._kept = self._remote.state() if saving else {}
        counts = self._peers.gather(f"joined/{step}", sorted(self._owner.staleness.items()))
        self._staleness_now = sum((Counter(dict(rank)) for rank in counts), Counter(self._staleness_before))
        return self._combine(contributions)

    def saved(self) -> dict[str, torch.Tensor]:
        """See :meth:`Strategy.saved`: the moments as of the join."""
        kept, self._kept = self._kept, {}
        return kept

    def facts(self) -> StrategyFacts:
        """See :meth:`Strategy.facts`."""
        counts = self._staleness_now
        updates = counts.total()
        staleness = Staleness(
            mean=round(sum(stale * count for stale, count in counts.items()) / updates, 4) if updates else 0.0,
            max=max(counts, default=0),
            updates=updates,
            histogram={str(stale): counts[stale] for stale in sorted(counts)},
        )
        return StrategyFacts(reproducible=False, staleness=staleness)

    def resume(self, facts: StrategyFacts) -> None:
        """Count on from an earlier attempt's facts."""
        histogram = facts.staleness.histogram if facts.staleness else {}
        self._staleness_before = Counter({int(stale): count for stale, count in histogram.items()})
        self._staleness_now = Counter(self._staleness_before)

    def close(self) -> None:
        """See :meth:`Strategy.close`."""
        super().close()
        self._remote.close()
        self._owner.exchange.close()

    def _staleness(self) -> float | None:
        return self._remote.staleness


def hogwild(setup: TrainingSetup, peers: Peers, *, exchange: str, checkpoint: Checkpoint | None) -> Hogwild:
    """The strategy for one rank, taken up where the checkpoint left it.

    Args:
        setup: what is trained.
        peers: the ranks.
        exchange: ``auto``, ``shared-memory`` or ``network``.
        checkpoint: to go on from.

    Raises:
        IntegrityError: if the checkpoint does not fit.
        WorkerLostError: if a peer cannot be reached.
    """
    layout, shared = setup.layout, None
    if peers.world_size > 1 and peers.one_host and exchange != "network":
        segment = share(layout, peers)
        shared = Shared(layout, segment, peers.world_size) if segment else None
    # Where its peers can read them, if there is such a place.
    gradients = shared.gradients[peers.rank] if shared else None
    local = setup.local_exchange(timeout_s=peers.timeout_s, gradients=gradients)
    parameters = shared.parameters if shared else None
    buckets = PrivateBuckets(layout, rank=peers.rank, world_size=peers.world_size, parameters=parameters)
    owned = Exchange(layout, buckets, timeout_s=peers.timeout_s)
    first = own_pieces(local.parameters, owned.slices)
    for mine, start in zip(own_pieces(owned.parameters, owned.slices), first, strict=True):
        mine.copy_(start)
    optimizer = setup.optimizer(owned)
    progress = TrainingProgress()
    if checkpoint is not None:
        progress = checkpoint.progress()
        optimizer.restore(checkpoint)
    owner = SliceOwner(owned, optimizer, updates=progress.step * peers.world_size, shared=shared)
    remote = RemoteSlices(local, owner, peers, shared=shared)
    engine = setup.independent_engine(local, remote, rank=peers.rank, world_size=peers.world_size)
    strategy = Hogwild(engine, remote, owner, peers)
    strategy.resume(progress.strategy)
    return strategy
