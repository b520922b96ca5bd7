"""New heads and their first weights.

A new tensor's values depend on (seed, its name) alone: not on the order in which tensors are made.
Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``C`` classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ts4s_core.models import spec as model_spec
from ts4s_core.models.initial_values import normal
from ts4s_core.onnx.graph.graph import Array
from ts4s_core.onnx.seeded_dropout import SeededDropout

HEAD = model_spec.HEAD


class ClassificationHead(nn.Module):
    """RoBERTa's: the first token's state through dropout, dense, tanh, dropout, projection. For multi-label data too.

    Its weights have no memory (device meta) until ``put_tensors``: :func:`initial_head` draws the first.
    """

    def __init__(self, hidden_size: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = SeededDropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size, device="meta")
        self.dropout_out = SeededDropout(dropout)
        self.out_proj = nn.Linear(hidden_size, classes, device="meta")

    @staticmethod
    def initial(hidden_size: int, classes: int, *, seed: int) -> dict[str, Array]:
        """See :func:`initial_head`."""
        return initial_head(hidden_size, classes, seed=seed)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``(B, T, H)`` to logits ``(B, C)``."""
        pooled = torch.tanh(self.dense(self.dropout(hidden[:, 0])))
        logits: torch.Tensor = self.out_proj(self.dropout_out(pooled))
        return logits


def head_shapes(hidden_size: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a head, by its name in the model."""
    return {
        f"{HEAD}.dense.weight": (hidden_size, hidden_size),
        f"{HEAD}.dense.bias": (hidden_size,),
        f"{HEAD}.out_proj.weight": (classes, hidden_size),
        f"{HEAD}.out_proj.bias": (classes,),
    }


def initial_head(hidden_size: int, classes: int, *, seed: int) -> dict[str, Array]:
    """First weights of a head: normal(0, 0.02), biases zero."""
    return {
        name: np.zeros(shape, np.float32) if len(shape) == 1 else normal(name, shape, seed=seed)
        for name, shape in head_shapes(hidden_size, classes).items()
    }
