"""The small networks: a window over the last tokens, and a recurrent one. Both give logits at every position.

Shapes: ``B`` texts, ``T`` tokens, ``N`` tokens of the window, ``E`` size of a token's vector, ``H`` hidden size,
``V`` vocabulary. Every random draw is this project's: :func:`initial_weights` for the weights, ``SeededDropout``.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ts4s_core.errors import SettingsError
from ts4s_core.models.initial_values import generator, kaiming_uniform
from ts4s_core.models.network_spec import NetworkSpec
from ts4s_core.models.spec import ModelSpec
from ts4s_core.models.trainable import TrainableModel
from ts4s_core.onnx.graph.graph import Array
from ts4s_core.onnx.seeded_dropout import SeededDropout

State = tuple[torch.Tensor, ...]


class WindowNetwork(nn.Module):
    """The last N tokens' vectors, learned positions within the window, optional self-attention, dense, output."""

    def __init__(self, spec: NetworkSpec, *, dropout: float) -> None:
        super().__init__()
        self.heads = spec.attention_heads
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size)
        self.position = nn.Embedding(spec.positions, spec.embedding_size)
        self.dropout_in = SeededDropout(dropout)
        if self.heads:
            self.attention_norm = nn.LayerNorm(spec.embedding_size)
            self.attention_in = nn.Linear(spec.embedding_size, 3 * spec.embedding_size)
            self.attention_out = nn.Linear(spec.embedding_size, spec.embedding_size)
        self.dense = nn.Linear(spec.positions * spec.embedding_size, spec.hidden_size)
        self.norm = nn.LayerNorm(spec.hidden_size)
        self.dropout_out = SeededDropout(dropout)
        self.output = nn.Linear(spec.hidden_size, spec.vocab_size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, V)``."""
        texts, length = input_ids.shape
        size = self.position.num_embeddings
        reach = (size - 1, 0)  # places before the text's first token
        there = F.pad(attention_mask, reach).unfold(1, size, 1).to(torch.bool)
        vectors = self.embedding(F.pad(input_ids, reach)).unfold(1, size, 1).transpose(2, 3)
        window = self.dropout_in(vectors + self.position.weight) * there.unsqueeze(-1)
        if self.heads:
            window = window + self._attended(window, there)
        hidden = F.gelu(self.dense(window.reshape(texts, length, -1)))
        logits: torch.Tensor = self.output(self.dropout_out(self.norm(hidden)))
        return logits

    def _attended(self, window: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """``(B, T, N, E)``: every token of a window looks at all that are there."""
        texts, length, size, width = window.shape
        packed = self.attention_in(self.attention_norm(window)).view(texts * length, size, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        # The last place is always there, so that no row is without anything to look at, unless the token is padding.
        mask = there.view(texts * length, 1, 1, size) | (torch.arange(size) == size - 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: torch.Tensor = self.attention_out(mixed.transpose(1, 2).reshape(window.shape))
        return out * there.unsqueeze(-1)


class RecurrentNetwork(nn.Module):
    """Token vectors and learned positions through a GRU or an LSTM to logits."""

    def __init__(self, spec: NetworkSpec, *, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size)
        self.position = nn.Embedding(spec.positions, spec.embedding_size)
        self.dropout_in = SeededDropout(dropout)
        cell = nn.GRU if spec.cell == "gru" else nn.LSTM
        sizes = [spec.embedding_size, *[spec.hidden_size] * spec.layers]
        if spec.tied:
            sizes[-1] = spec.embedding_size
        self.cells = nn.ModuleList(cell(before, after, batch_first=True) for before, after in itertools.pairwise(sizes))
        self.dropouts = nn.ModuleList(SeededDropout(dropout) for _ in self.cells)
        # Tied, states between -1 and 1 as they are: made larger by a norm, they fit little text too well.
        self.norm = nn.Identity() if spec.tied else nn.LayerNorm(sizes[-1])
        self.output = nn.Linear(sizes[-1], spec.vocab_size)
        if spec.tied:
            self.output.weight = self.embedding.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, V)``; what is padded behind a text does not reach back into it."""
        return self.advance(input_ids, None, first=0)[0]

    def advance(self, input_ids: torch.Tensor, state: list[Any] | None, *, first: int) -> tuple[torch.Tensor, list[Any]]:
        """Read tokens on from a state.

        Args:
            input_ids: ``(B, T)`` int64.
            state: what the last call gave; None at a text's beginning.
            first: position of the first of these tokens.

        Returns:
            logits ``(B, T, V)``, and the state behind the last token.
        """
        places = torch.arange(first, first + input_ids.shape[1]).clamp(max=self.position.num_embeddings - 1)
        hidden = self.dropout_in(self.embedding(input_ids) + self.position(places))
        states: list[Any] = []
        for number, (cell, dropout) in enumerate(zip(self.cells, self.dropouts, strict=True)):
            hidden, after = cell(hidden, None if state is None else state[number])
            states.append(after)
            hidden = dropout(hidden)
        return self.output(self.norm(hidden)), states


class NetworkModel(TrainableModel):
    """A small network and what ``model.json`` says of it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        assert spec.network is not None
        sizes = NetworkSpec.from_json(spec.network)
        kind = WindowNetwork if sizes.architecture == "window" else RecurrentNetwork
        with torch.device("meta"):
            self.network = kind(sizes, dropout=spec.dropout)
        if sizes.frozen_embedding:
            self.network.embedding.weight.requires_grad_(False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, V)``."""
        logits: torch.Tensor = self.network(input_ids, attention_mask)
        return logits


def build_network(spec: ModelSpec) -> NetworkModel:
    """The model of a ``model.json`` that has a network, in train mode; its weights have no memory until ``put_tensors``."""
    model = NetworkModel(spec)
    model.train()
    return model


def initial_weights(model: NetworkModel, *, seed: int, vectors: Array | None = None) -> dict[str, Array]:
    """First weights: of each tensor from (seed, its name) alone.

    Args:
        model: whose weights are wanted.
        seed: ``train.seed``.
        vectors: ``(V, E)`` first values of the token vectors, rows of NaN where there are none; None: all are drawn.

    Raises:
        SettingsError: the vectors have another size than the network's.
    """
    found: dict[str, Array] = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        owner, _, last = name.rpartition(".")
        if owner.endswith("norm"):
            found[name] = np.full(shape, float(last == "weight"), np.float32)
        elif len(shape) == 1:
            found[name] = np.zeros(shape, np.float32)
        elif owner.endswith(("embedding", "position")):
            found[name] = _table(name, shape, seed=seed, vectors=vectors if owner.endswith("embedding") else None)
        else:
            found[name] = kaiming_uniform(name, (shape[0], shape[1]), seed=seed)
    return found


def _table(name: str, shape: tuple[int, ...], *, seed: int, vectors: Array | None) -> Array:
    """Normal with the deviation of the given vectors, else such that a vector's length is about 1."""
    drawn = generator(name, seed=seed).standard_normal(shape, dtype=np.float32)
    if vectors is None:
        return drawn * np.float32(1 / math.sqrt(shape[1]))
    if vectors.shape != shape:
        raise SettingsError(f"model.word_vectors: expected vectors for a table of {shape}, got {vectors.shape}")
    given = ~np.isnan(vectors[:, 0])
    spread = np.float32(np.std(vectors[given])) if given.any() else np.float32(1 / math.sqrt(shape[1]))
    table: Array = np.where(given[:, None], vectors, drawn * spread).astype(np.float32)
    return table
