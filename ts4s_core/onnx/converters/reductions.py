"""Reductions of opset 18 and 20, whose axes are an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ts4s_core.onnx.converters.registering import register

REDUCTIONS: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
    "ReduceMean": (torch.mean, (18,)),
    "ReduceMax": (torch.amax, (18, 20)),
    "ReduceMin": (torch.amin, (18, 20)),
    "ReduceL2": (torch.linalg.vector_norm, (18,)),
}


class Reduce(nn.Module):
    """A reduction over the axes that its second input names; none: over all, or over nothing with ``noop``."""

    def __init__(self, function: Callable[..., torch.Tensor], *, keepdims: bool, noop: bool) -> None:
        super().__init__()
        self.function, self.keepdims, self.noop = function, keepdims, noop

    def forward(self, data: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        """The reduced tensor."""
        chosen: list[int] = [] if axes is None else axes.tolist()
        if not chosen and self.noop:
            return data
        return self.function(data, dim=chosen or list(range(data.dim())), keepdim=self.keepdims)


def _register(operator: str, function: Callable[..., torch.Tensor], versions: tuple[int, ...]) -> None:
    @register(operator, versions=versions)
    def _make(node: Any) -> nn.Module:
        attributes = node.attributes
        return Reduce(
            function,
            keepdims=bool(attributes.get("keepdims", 1)),
            noop=bool(attributes.get("noop_with_empty_axes", 0)),
        )


for _operator, (_function, _versions) in REDUCTIONS.items():
    _register(_operator, _function, _versions)
