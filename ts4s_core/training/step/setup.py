"""A model laid out for training: its parameters, the buckets that they lie in, and what its engines are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ts4s_core.settings import TrainSettings
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.buckets import Layout, attach, lay_out, trainable_parameters
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.optimizers.adamw import Optimizer, SlicedAdamW, SlicedOptimizer
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step.compiled_forward import compiled
from ts4s_core.training.step.engine import Engine, Forward, SeedDropout
from ts4s_core.training.step.independent_engine import IndependentEngine
from ts4s_core.training.step.objectives import Objective


@dataclass(frozen=True)
class TrainingSetup:
    """What a worker, a strategy and a measuring process make their engines of.

    Attributes:
        built: the model.
        settings: the train settings.
        parameters: what is trained, by the module's names.
        layout: of those in buckets.
        objective: what is minimised.
        forward: what is called instead of the module; None: the module.
    """

    built: BuiltModel
    settings: TrainSettings
    parameters: dict[str, nn.Parameter]
    layout: Layout
    objective: Objective
    forward: Forward | None

    @classmethod
    def of(cls, built: BuiltModel, settings: TrainSettings, *, objective: Objective) -> TrainingSetup:
        """Lay a model out.

        Args:
            built: the model.
            settings: the train settings.
            objective: what is minimised.

        Raises:
            UnsupportedModelError: if nothing of it can be trained.
            InputError: if it is to be compiled, and this host has no C++ compiler.
        """
        parameters = trainable_parameters(built.module)
        shapes = [(name, tuple(parameter.shape)) for name, parameter in parameters.items()]
        layout = lay_out(shapes, dtype=next(iter(parameters.values())).dtype)
        forward = compiled(built.module) if settings.compile and built.forward is None else built.forward
        return cls(built, settings, parameters, layout, objective, forward)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's weights.

        Raises:
            IntegrityError: if its file is damaged.
        """
        built, saved = self.built, checkpoint.weights()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(saved[built.stored_name(name)]))
        for name in built.buffers.keys() & saved.keys():
            built.buffers[name].copy_(torch.from_numpy(saved[name]))

    def optimizer(self, exchange: Exchange) -> SlicedOptimizer:
        """What updates an exchange's own slices: the model's own optimiser, else AdamW."""
        if self.built.optimizer is not None:
            return self.built.optimizer(exchange)
        return SlicedAdamW(exchange, weight_decay=self.settings.weight_decay)

    def local_exchange(self, *, timeout_s: float, gradients: list[torch.Tensor] | None = None) -> Exchange:
        """Buckets of one rank alone, and the parameters put there.

        Args:
            timeout_s: longest wait.
            gradients: memory of its gradients; None: new.
        """
        exchange = Exchange(self.layout, PrivateBuckets(self.layout, gradients=gradients), timeout_s=timeout_s)
        attach(self.parameters, self.layout.views(exchange.parameters), copy=True)
        return exchange

    def engine(self, exchange: Exchange, optimizer: Optimizer) -> Engine:
        """An engine of a rank that steps together with its peers."""
        return Engine(
            self.built.module,
            self.parameters,
            exchange,
            optimizer,
            objective=self.objective,
            seed=self.settings.seed,
            parts=self.settings.logical_shards,
            max_grad_norm=self.settings.max_grad_norm,
            seed_dropout=self.built.seed_dropout,
            forward=self.forward,
        )

    def independent_engine(
        self, exchange: Exchange, optimizer: Optimizer, *, rank: int, world_size: int, seed_dropout: SeedDropout | None = None
    ) -> IndependentEngine:
        """An engine of one rank's parts alone.

        Args:
            exchange: of :meth:`local_exchange`.
            optimiser: steps the exchange's buckets.
            rank: whose parts.
            world_size: number of ranks that share the parts.
            seed_dropout: in place of the model's own.
        """
        count = self.settings.logical_shards // world_size
        return IndependentEngine(
            self.built.module,
            self.parameters,
            exchange,
            optimizer,
            objective=self.objective,
            seed=self.settings.seed,
            parts=count,
            first_part=rank * count,
            max_grad_norm=self.settings.max_grad_norm,
            seed_dropout=seed_dropout or self.built.seed_dropout,
            forward=self.forward,
        )
