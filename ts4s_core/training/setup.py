"""How the ranks of an attempt find each other, and make sure that they are alike."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from ts4s_core.artifacts.environment import instruction_set, library_versions
from ts4s_core.errors import TrainingError, listed
from ts4s_core.training.control_client import ControlClient
from ts4s_core.training.exchange import Exchange
from ts4s_core.training.flat import Layout
from ts4s_core.training.job import ControlAddress, TrainJob
from ts4s_core.training.network import GlooExchange, join_store, make_group, make_store
from ts4s_core.training.shared_memory import Regions, Segment, SharedMemoryExchange, address_of, host_identity

log = logging.getLogger(__name__)

#: Longest wait for a value over the control channel: ranks start apart, build models, read from slow stores. A rank that
#: is dead or silent is noticed much sooner, by the channel itself.
STRING_LIMIT_S = 600.0


@dataclass(frozen=True)
class Peers:
    """A rank among its peers.

    Attributes:
        address: the interface by which peers reach this rank.
        one_host: whether all ranks may share memory.
    """

    rank: int
    world_size: int
    control: ControlClient
    secret: str
    address: str
    timeout_s: float
    one_host: bool

    def gather(self, key: str, value: Any) -> list[Any]:
        """Everybody's value."""
        return self.control.gather(key, value, timeout_s=max(STRING_LIMIT_S, self.timeout_s))


def meet(job: TrainJob, control: ControlClient, *, where: ControlAddress, rank: int, world_size: int, address: str) -> Peers:
    """Compare what fixes the bits of a run with the peers.

    Raises:
        TrainingError: if CPUs, libraries or thread counts are mixed.
    """
    mine = {
        "instruction_set": instruction_set(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **library_versions(),
    }
    limit_s = max(STRING_LIMIT_S, job.timeout_s)
    everybody = control.gather("meet", {"alike": mine, "host": host_identity()}, timeout_s=limit_s)
    for peer, other in enumerate(everybody):
        odd = [
            f"{name} {value!r} and {other['alike'].get(name)!r}"
            for name, value in mine.items()
            if other["alike"].get(name) != value
        ]
        if odd:
            raise TrainingError(
                f"Workers {rank} and {peer} would not compute the same bits: expected one environment, got {listed(odd)}. "
                "Use machines of one kind with the same installation"
            )
    one_host = len({other["host"] for other in everybody}) == 1
    return Peers(rank, world_size, control, where.secret, address, job.timeout_s, one_host)


def same_weights(peers: Peers, digest: str) -> None:
    """Make sure that every rank starts from the same weights.

    Raises:
        TrainingError: if one does not.
    """
    digests = peers.gather("initial-weights", digest)
    odd = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if odd:
        raise TrainingError(f"Workers {listed(odd)} start from other weights than worker 0: expected {digests[0][:12]}")


def connect(layout: Layout, peers: Peers, *, kind: str) -> tuple[Exchange, bool]:
    """The exchange for these ranks: shared memory on one host, else the network.

    Args:
        layout: the parameters' layout.
        peers: the ranks.
        kind: ``auto``, ``shared-memory`` or ``network``.

    Returns:
        the exchange, and whether its parameters are one copy for all ranks.
    """
    limits = {"rank": peers.rank, "world_size": peers.world_size}
    if peers.world_size == 1:
        return Exchange(layout, **limits, timeout_s=peers.timeout_s), False
    if kind != "network" and (peers.one_host or kind == "shared-memory"):
        segment = share(layout, peers)
        if segment is not None:
            return SharedMemoryExchange(layout, segment, **limits, timeout_s=peers.timeout_s), True
        if kind == "shared-memory":
            raise TrainingError(
                "Workers cannot share memory: expected one host with memfd_create and /proc. Use the network exchange"
            )
    return GlooExchange(layout, _groups(peers), **limits, timeout_s=peers.timeout_s), False


def share(layout: Layout, peers: Peers) -> Segment | None:
    """The segment that rank 0 makes and all map; None on every rank if one of them cannot."""
    size = Regions(layout, peers.world_size).size
    segment, descriptor, offer = None, -1, None
    if peers.rank == 0:
        try:
            segment, descriptor = Segment.create(size)
            offer = address_of(descriptor)
        except OSError as exc:
            log.warning("no shared memory of %d MiB, ranks use the network: %s", size >> 20, exc)
    try:
        offered = peers.gather("segment", offer)[0]
        if offered is None:
            return None
        if segment is None:
            try:
                segment = Segment.attach(offered, size)
            except OSError as exc:
                log.warning("rank %d cannot map the shared memory, ranks use the network: %s", peers.rank, exc)
        return segment if all(peers.gather("mapped", segment is not None)) else None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _groups(peers: Peers) -> tuple[Any, Any]:
    # Rank 0's store has to live as long as the groups, which hold it.
    if peers.rank == 0:
        store, port = make_store(peers.address, timeout_s=peers.timeout_s)
        peers.gather("store", [peers.address, port])
    else:
        host, port = peers.gather("store", None)[0]
        store = join_store(host, port, timeout_s=peers.timeout_s)
    prefix = hashlib.sha256(f"gloo/{peers.secret}".encode()).hexdigest()
    first, second = (
        make_group(
            store,
            secret=f"{prefix}/{name}",
            rank=peers.rank,
            world_size=peers.world_size,
            address=peers.address,
            timeout_s=peers.timeout_s,
        )
        for name in ("buckets", "numbers")
    )
    return first, second
