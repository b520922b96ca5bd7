"""What a model factory returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ts4s_core.models.weights import Array
from ts4s_core.training.exchange.exchange import Exchange
from ts4s_core.training.optimizers.adamw import SlicedOptimizer
from ts4s_core.training.optimizers.schedule import Rate, learning_rate
from ts4s_core.training.step.engine import Forward, SeedDropout
from ts4s_core.training.step.objectives import Objective


def no_seeded_dropout(model: nn.Module, seed: int, step: int, *, part: int) -> None:
    """Does nothing: for models without ``SeededDropout``; the engine itself seeds PyTorch's own random numbers."""


@dataclass(frozen=True)
class BuiltModel:
    """A module that can be trained.

    Attributes:
        module: ``forward(*inputs)`` of what its rows bring (of texts ``input_ids (B, T), attention_mask (B, T)``) to what
            its objective takes; what requires a gradient is trained.
        seed_dropout: seeds its dropout by (seed, step, part).
        names: stored name of each parameter where it differs from the module's own.
        buffers: what is stored beside the parameters, by stored name; tensors of the module.
        objective: what is minimised; None: that of the job's task.
        optimiser: makes the optimiser of a rank's slices; None: AdamW.
        rate: the learning rate of each step.
        forward: what to call instead of the module.
        validates: whether the validation loss is measured after each epoch even where nothing stops by it.
    """

    module: nn.Module
    seed_dropout: SeedDropout = no_seeded_dropout
    names: Mapping[str, str] = field(default_factory=dict)
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    objective: Objective | None = None
    optimizer: Callable[[Exchange], SlicedOptimizer] | None = None
    rate: Rate = learning_rate
    forward: Forward | None = None
    validates: bool = False

    def stored_name(self, parameter: str) -> str:
        """The name that a parameter of the module is stored under."""
        return self.names.get(parameter, parameter)

    def weights(self) -> dict[str, Array]:
        """All weights by stored name, frozen ones included, a tied one once; views."""
        weights = {self.stored_name(name): parameter.detach().numpy() for name, parameter in self.module.named_parameters()}
        return weights | {name: buffer.numpy() for name, buffer in self.buffers.items()}
