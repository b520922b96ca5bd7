"""LoRA on the query and value projections of an imported graph.

The library peft is not used: it wraps modules and renames what it wraps (``base_model.model....base_layer.weight``), and it
finds its targets by the names of one family's modules. Here every weight keeps its state-dict name, and the targets are
found by what they do in the graph, whatever they are called. The arithmetic is the same, two small products, in
``converters.native.LoraAdapter``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.initial_values import kaiming_uniform
from ts4s_core.onnx.graph.graph import Array

if TYPE_CHECKING:
    from ts4s_core.onnx.converters.native import Linear

#: What a projection makes; ``fused`` is one for queries, keys and values together (GPT-2).
ROLES = ("query", "value", "fused")


def projections(model: nn.Module) -> dict[str, Linear]:
    """The Linear modules that LoRA adapts, by their place in the model."""
    from ts4s_core.onnx.converters.native import Linear

    return {path: module for path, module in model.named_modules() if isinstance(module, Linear) and module.role in ROLES}


def add_lora(model: nn.Module, *, rank: int, alpha: float) -> None:
    """Put an adapter, without values yet, on every query and value projection.

    Raises:
        UnsupportedModelError: the graph has none that can be recognised.
    """
    from ts4s_core.onnx.converters.native import LoraAdapter

    found = projections(model)
    if not found:
        raise UnsupportedModelError(
            f"LoRA of rank {rank} for this graph: expected query and value projections in front of an attention, got none. "
            "Use model.lora_rank 0"
        )
    for module in found.values():
        module.lora = LoraAdapter(module.in_features, module.out_features, rank=rank, alpha=alpha)


def initial_lora(model: nn.Module, *, seed: int) -> dict[str, Array]:
    """First weights of the adapters: A kaiming-uniform from (seed, name), B zero, so that nothing changes at first."""
    tensors: dict[str, Array] = {}
    for path, module in projections(model).items():
        assert module.lora is not None
        rank, columns = module.lora.A.shape
        tensors[f"{path}.lora.A"] = kaiming_uniform(f"{path}.lora.A", (rank, columns), seed=seed)
        tensors[f"{path}.lora.B"] = np.zeros(module.lora.B.shape, np.float32)
    return tensors


def merge_lora(model: nn.Module) -> None:
    """Add what the adapters learnt to the weights themselves, and take them off."""
    with torch.no_grad():
        for module in projections(model).values():
            if module.lora is not None:
                delta = module.lora.delta()
                module.weight.add_(delta.t() if module.in_out else delta)
                module.lora = None
