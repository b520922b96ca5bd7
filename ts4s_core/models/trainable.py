"""A model that can be trained."""

from __future__ import annotations

import torch

from ts4s_core.models.heads import HEAD
from ts4s_core.models.spec import ModelSpec
from ts4s_core.onnx.graph.graph import Array
from ts4s_core.onnx.importing.imported_graph import ImportedGraph


class TrainableModel(ImportedGraph):
    """An imported graph with its head; ``requires_grad`` is set as freezing and LoRA say."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.fixed = spec.fixed_shape
        self._has_head = spec.kind.head is not None

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all weights, tied ones once."""
        return tuple(name for name, _parameter in self.named_parameters())

    def trained_tensors(self) -> dict[str, Array]:
        """The tensors that are trained, by name."""
        return {name: value.detach().numpy() for name, value in self.named_parameters() if value.requires_grad}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to logits: ``(B, C)``, or ``(B, T, V)`` for a language model."""
        output = self.encode(input_ids, attention_mask)
        head = self._modules.get(HEAD)
        if not self._has_head or head is None:
            return output
        logits: torch.Tensor = head(output)
        return logits
