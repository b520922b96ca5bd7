"""What a strategy is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ts4s_core.settings import TrainSettings
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.buckets import Layout
from ts4s_core.training.exchange.exchange import Exchange
from ts4s_core.training.exchange.peers import Peers
from ts4s_core.training.optimisers.adamw import Optimiser, SlicedAdamW, SlicedOptimiser
from ts4s_core.training.step.engine import Engine
from ts4s_core.training.step.local_engine import LocalEngine

MakeEngine = Callable[..., Engine]


@dataclass(frozen=True)
class Parts:
    """What a strategy that steps apart is put together from.

    Attributes:
        parameters: what is trained.
        layout: of those.
        make_optimiser: the model's own optimiser; None: AdamW.
        make_engine: from an Engine class, an exchange and an optimiser to an engine.
    """

    parameters: dict[str, nn.Parameter]
    layout: Layout
    settings: TrainSettings
    peers: Peers
    checkpoint: Checkpoint | None
    exchange_kind: str
    make_optimiser: Callable[[Exchange], SlicedOptimiser] | None
    make_engine: MakeEngine

    def optimiser(self, exchange: Exchange) -> SlicedOptimiser:
        """What updates an exchange's own slices."""
        if self.make_optimiser is not None:
            return self.make_optimiser(exchange)
        return SlicedAdamW(exchange, weight_decay=self.settings.weight_decay)

    def local_exchange(self) -> Exchange:
        """Buckets of this rank alone."""
        return Exchange(self.layout, rank=0, world_size=1, timeout_s=self.peers.timeout_s)

    def local_engine(self, exchange: Exchange, optimiser: Optimiser) -> LocalEngine:
        """An engine of the rank's own parts."""
        count = self.settings.logical_shards // self.peers.world_size
        engine = self.make_engine(LocalEngine, exchange, optimiser, parts=count, first_part=self.peers.rank * count)
        assert isinstance(engine, LocalEngine)
        return engine
