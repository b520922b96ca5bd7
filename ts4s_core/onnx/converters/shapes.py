"""Reshape with ``allowzero``, Flatten of a vector, Split into a number of parts, Trilu, Size, Slice, CumSum.

Those that onnx2torch has, but not as they are needed, are registered in the domain ``ts4s`` too: the importer moves the nodes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ts4s_core.onnx.converters.registering import register
from ts4s_core.onnx.graph.graph import DOMAIN


class Reshape(nn.Module):
    """ONNX Reshape: 0 copies the dimension at its place, unless ``allowzero``."""

    def __init__(self, allowzero: bool) -> None:
        super().__init__()
        self.allowzero = allowzero

    def forward(self, data: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        """``data`` in the shape that the integer vector ``shape`` says."""
        wanted: list[int] = shape.tolist()
        if not self.allowzero:
            wanted = [data.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        return data.reshape(wanted)


class Flatten(nn.Module):
    """ONNX Flatten to two dimensions, of vectors too."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``data`` with the axes before ``axis`` as rows and the others as columns."""
        axis = self.axis + data.dim() if self.axis < 0 else self.axis
        rows = 1
        for size in data.shape[:axis]:
            rows *= size
        return data.reshape(rows, -1)


class Split(nn.Module):
    """ONNX Split: into given sizes, or into equal parts of which the last may be smaller."""

    def __init__(self, axis: int, parts: int) -> None:
        super().__init__()
        self.axis, self.parts = axis, parts

    def forward(self, data: torch.Tensor, sizes: torch.Tensor | None = None) -> Any:
        """The parts along the axis."""
        if sizes is not None:
            return torch.split(data, sizes.tolist(), dim=self.axis)
        return torch.split(data, -(-data.shape[self.axis] // self.parts), dim=self.axis)


class Trilu(nn.Module):
    """ONNX Trilu: the upper or lower triangle."""

    def __init__(self, upper: bool) -> None:
        super().__init__()
        self.upper = upper

    def forward(self, data: torch.Tensor, diagonal: torch.Tensor | None = None) -> torch.Tensor:
        """``data`` with zeros outside the triangle."""
        offset = 0 if diagonal is None else int(diagonal)
        return torch.triu(data, offset) if self.upper else torch.tril(data, offset)


class Size(nn.Module):
    """ONNX Size: the number of elements."""

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """An int64 scalar."""
        return torch.tensor(data.numel(), dtype=torch.int64)


class Slice(nn.Module):
    """ONNX Slice of opset 10 and later, with positive steps (onnx2torch's indexes in a way that PyTorch gives up)."""

    def forward(
        self,
        data: torch.Tensor,
        starts: torch.Tensor,
        ends: torch.Tensor,
        axes: torch.Tensor | None = None,
        steps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The part of ``data`` from ``starts`` to ``ends`` along ``axes``."""
        first, last = starts.tolist(), ends.tolist()
        chosen = list(range(len(first))) if axes is None else axes.tolist()
        strides = [1] * len(first) if steps is None else steps.tolist()
        index = [slice(None)] * data.dim()
        for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
            index[axis] = slice(start, end, step)
        return data[tuple(index)]


class CumSum(nn.Module):
    """ONNX CumSum (onnx2torch's sums from the end unless told not to)."""

    def __init__(self, *, exclusive: bool, reverse: bool) -> None:
        super().__init__()
        self.exclusive, self.reverse = exclusive, reverse

    def forward(self, data: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
        """Running sums of the type of ``data``."""
        along = int(axis)
        source = data.flip(along) if self.reverse else data
        total = source.cumsum(along, dtype=data.dtype)
        total = total - source if self.exclusive else total
        return total.flip(along) if self.reverse else total


@register("Reshape", versions=(19, 21, 23, 24))
def _reshape(node: Any) -> nn.Module:
    return Reshape(bool(node.attributes.get("allowzero", 0)))


@register("Flatten", versions=(1,), domain=DOMAIN)
@register("Flatten", versions=(21, 23, 24))
def _flatten(node: Any) -> nn.Module:
    return Flatten(int(node.attributes.get("axis", 1)))


@register("Split", versions=(18,))
def _split(node: Any) -> nn.Module:
    return Split(int(node.attributes.get("axis", 0)), int(node.attributes.get("num_outputs", len(node.output_values))))


@register("Trilu", versions=(14,))
def _trilu(node: Any) -> nn.Module:
    return Trilu(bool(node.attributes.get("upper", 1)))


@register("Size", versions=(1, 13, 19, 21, 23, 24))
def _size(node: Any) -> nn.Module:
    return Size()


@register("Slice", versions=(1,), domain=DOMAIN)
def _slice(node: Any) -> nn.Module:
    return Slice()


@register("CumSum", versions=(1,), domain=DOMAIN)
def _cumsum(node: Any) -> nn.Module:
    return CumSum(exclusive=bool(node.attributes.get("exclusive", 0)), reverse=bool(node.attributes.get("reverse", 0)))


@register("DynamicReshape", versions=(1,), domain=DOMAIN)
def _dynamic_reshape(node: Any) -> nn.Module:
    return _reshape(node)
