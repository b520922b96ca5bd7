"""A model that can be trained: an imported graph with its head, built from an artifact's folder.

Shapes: ``B`` texts, ``T`` tokens, ``C`` classes, ``V`` vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import SettingsError, UnsupportedModelError
from ts4s_core.onnx.foreign import graph_failures
from ts4s_core.onnx.graph import Array, Graph, load_own_graph
from ts4s_core.onnx.heads import HEAD, ClassificationHead
from ts4s_core.onnx.importer import ImportedGraph, assemble, put_tensors
from ts4s_core.onnx.lora import add_lora
from ts4s_core.onnx.model_spec import GRAPH_FILE, WEIGHTS_FILE, ModelSpec
from ts4s_core.onnx.weights import read_weights


class TrainableModel(ImportedGraph):
    """An imported graph with its head; ``requires_grad`` is set as freezing and LoRA say."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.fixed = spec.fixed_shape

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
        if self.spec.task == "language-model" or head is None:
            return output
        logits: torch.Tensor = head(output)
        return logits


@graph_failures("Building of the model")
def build_model(folder: Path) -> TrainableModel:
    """The model of a ``model`` or ``trained`` artifact, in train mode.

    The same folder gives the same modules in the same order in every process.

    Args:
        folder: the artifact's files. What they say of the weights' sizes takes no memory before the weights' file has the same.

    Raises:
        IntegrityError: a file is missing, damaged, or does not fit the others.
    """
    spec = ModelSpec.read(folder)
    model = _network(spec) if spec.network is not None else _graph_model(folder, spec)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    put_tensors(model, read_weights(folder / WEIGHTS_FILE, expected=expected))
    return model


def _network(spec: ModelSpec) -> TrainableModel:
    from ts4s_core.language.networks import build_network

    return build_network(spec)


def _graph_model(folder: Path, spec: ModelSpec) -> TrainableModel:
    return compose(load_own_graph(folder / GRAPH_FILE), spec)


@graph_failures("Building of the model")
def compose(graph: Graph, spec: ModelSpec) -> TrainableModel:
    """A rewritten graph with dropout, adapters and head; its weights have no memory until ``put_tensors``.

    Raises:
        UnsupportedModelError: the graph has a weight where the head's belong, or no place for LoRA.
        SettingsError: nothing would be trained.
    """
    model = TrainableModel(spec)
    assemble(graph, dropout=spec.dropout, attention_dropout=spec.attention_dropout, into=model)
    if spec.lora_rank:
        add_lora(model, rank=spec.lora_rank, alpha=spec.lora_alpha)
    if spec.task != "language-model":
        if HEAD in model._modules:
            raise UnsupportedModelError(
                f"New head for this graph: expected no weights called {HEAD}.*, got some. Export the encoder without its head"
            )
        model.add_module(HEAD, ClassificationHead(spec.hidden_size, spec.classes, dropout=spec.dropout))
    _choose_trained(model, spec)
    return model.train()


def _choose_trained(model: nn.Module, spec: ModelSpec) -> None:
    for name, parameter in model.named_parameters():
        new = name.startswith(f"{HEAD}.") and spec.task != "language-model"
        adapter = ".lora." in name
        parameter.requires_grad_(new or adapter or not (spec.freeze_encoder or spec.lora_rank))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError(
            "model.freeze_encoder true leaves nothing to train with model.task language-model, which has no new head: "
            "leave it off, or use model.lora_rank"
        )


def tensors_of(model: nn.Module) -> dict[str, Array]:
    """All weights by name."""
    return {name: np.asarray(parameter.detach()) for name, parameter in model.named_parameters()}
