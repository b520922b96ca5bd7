"""All ranks step together."""

from __future__ import annotations

from ts4s_core.training.exchange.buckets import attach
from ts4s_core.training.exchange.connect import connect
from ts4s_core.training.step.engine import Engine
from ts4s_core.training.strategies.inputs import Parts
from ts4s_core.training.strategies.strategy import Strategy


def synchronous(parts: Parts) -> Strategy:
    """Synchronous training for one rank, taken up where the checkpoint left it.

    Raises:
        TrainingError: if the ranks cannot reach each other.
        IntegrityError: if the checkpoint does not fit.
    """
    exchange, one_copy = connect(parts.layout, parts.peers, kind=parts.exchange_kind)
    attach(parts.parameters, parts.layout.views(exchange.parameters), copy=parts.peers.rank == 0 or not one_copy)
    exchange.publish()  # nobody reads shared parameters before rank 0 has written them
    optimiser = parts.optimiser(exchange)
    if parts.checkpoint is not None:
        optimiser.restore(parts.checkpoint)
    return Strategy(parts.make_engine(Engine, exchange, optimiser, parts=parts.settings.logical_shards))
