"""Choosing and connecting the exchange between the ranks of an attempt."""

from __future__ import annotations

import logging
import os
from typing import Any

from ts4s_core.errors import TrainingError
from ts4s_core.training.control.channel import BEAT_EVERY_S
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets, Transport
from ts4s_core.training.exchange.gloo import AddressStore, Gloo, make_group
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.exchange.shared_memory import Regions, Segment, SharedMemory, address_of

log = logging.getLogger(__name__)

#: What peers wait beyond ``train.timeout_s``: the driver, who knows which rank is silent, notices it up to a beat later.
_GRACE_S = 2 * BEAT_EVERY_S


def connect(layout: Layout, peers: Peers, *, kind: str) -> tuple[Exchange, bool]:
    """The exchange for these ranks: shared memory on one host, else the network.

    Args:
        layout: the parameters' layout.
        peers: the ranks.
        kind: ``auto``, ``shared-memory`` or ``network``.

    Returns:
        the exchange, and whether its parameters are one copy for all ranks.
    """
    transport = _transport(layout, peers, kind=kind)
    return Exchange(layout, transport, timeout_s=peers.timeout_s + _GRACE_S), isinstance(transport, SharedMemory)


def _transport(layout: Layout, peers: Peers, *, kind: str) -> Transport:
    rank = {"rank": peers.rank, "world_size": peers.world_size}
    if peers.world_size == 1:
        return PrivateBuckets(layout)
    if kind != "network" and (peers.one_host or kind == "shared-memory"):
        segment = share(layout, peers)
        if segment is not None:
            return SharedMemory(layout, segment, **rank, timeout_s=peers.timeout_s + _GRACE_S)
        if kind == "shared-memory":
            raise TrainingError(
                "Workers cannot share memory: expected one host with memfd_create and /proc. Use the network exchange"
            )
    return Gloo(layout, _groups(peers), **rank)


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
    first, second = (
        make_group(
            AddressStore(peers.gather, name),
            rank=peers.rank,
            world_size=peers.world_size,
            address=peers.address,
            timeout_s=peers.timeout_s + _GRACE_S,
        )
        for name in ("buckets", "numbers")
    )
    return first, second
