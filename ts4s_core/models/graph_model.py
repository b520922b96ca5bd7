"""A model that can be trained: an imported graph with its head, built from an artifact's folder.

Shapes: ``B`` texts, ``T`` tokens, ``C`` classes, ``V`` vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from ts4s_core.errors import SettingsError, UnsupportedModelError
from ts4s_core.models.heads import HEAD
from ts4s_core.models.lora import add_lora
from ts4s_core.models.spec import ModelSpec
from ts4s_core.models.trainable import TrainableModel
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import Graph
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import assemble
from ts4s_core.task_kinds.kind import load
from ts4s_core.torch_internals import children_of


class GraphModel(TrainableModel, ImportedGraph):
    """An imported graph with its head, if it has one; ``requires_grad`` is set as freezing and LoRA say."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.fixed = spec.fixed_shape
        self._has_head = spec.kind.head is not None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """See :meth:`TrainableModel.forward`."""
        output = self.encode(input_ids, attention_mask)
        if self.head is None:
            return output
        logits: torch.Tensor = self.head(output)
        return logits

    @property
    def head(self) -> nn.Module | None:
        """What is behind the graph's output; None: nothing."""
        return self._modules.get(HEAD) if self._has_head else None


@graph_failures("Building of the model")
def compose(graph: Graph, spec: ModelSpec) -> GraphModel:
    """A rewritten graph with dropout, adapters and head; its weights have no memory until ``put_tensors``.

    Raises:
        UnsupportedModelError: the graph has a weight where the head's belong, or no place for LoRA.
        SettingsError: nothing would be trained.
    """
    model = GraphModel(spec)
    assemble(graph, dropout=spec.dropout, attention_dropout=spec.attention_dropout, into=model)
    if spec.lora_rank:
        add_lora(model, rank=spec.lora_rank, alpha=spec.lora_alpha)
    if spec.kind.head is not None:
        if HEAD in children_of(model):
            raise UnsupportedModelError(
                f"New head for this graph: expected no weights called {HEAD}.*, got some. Export the encoder without its head"
            )
        model.add_module(HEAD, load(spec.kind.head)(spec.hidden_size, spec.classes, dropout=spec.dropout))
    _choose_trained(model, spec)
    return model.train()


def _choose_trained(model: nn.Module, spec: ModelSpec) -> None:
    for name, parameter in model.named_parameters():
        new = name.startswith(f"{HEAD}.") and spec.kind.head is not None
        adapter = ".lora." in name
        parameter.requires_grad_(new or adapter or not (spec.freeze_encoder or spec.lora_rank))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError(
            f"model.freeze_encoder true leaves nothing to train with model.task {spec.task}, which has no new head: "
            "leave it off, or use model.lora_rank"
        )
