"""A model that can be trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn

from ts4s_core.models.spec import ModelSpec
from ts4s_core.onnx.graph.graph import Array


class TrainableModel(nn.Module, ABC):
    """A module whose parameters that require a gradient are trained; what it is, its ``spec`` says."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all weights, tied ones once."""
        return tuple(name for name, _parameter in self.named_parameters())

    def trained_tensors(self) -> dict[str, Array]:
        """The tensors that are trained, by name."""
        return {name: value.detach().numpy() for name, value in self.named_parameters() if value.requires_grad}

    @abstractmethod
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to logits: ``(B, C)``, or ``(B, T, V)`` for a language model."""


def tensors_of(model: nn.Module) -> dict[str, Array]:
    """All weights by name, tied ones once; views."""
    return {name: np.asarray(parameter.detach()) for name, parameter in model.named_parameters()}
