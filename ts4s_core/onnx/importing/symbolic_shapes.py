"""An imported graph in a form that ``torch.export`` takes with dynamic shapes: arithmetic on sizes is done in Python.

ONNX computes shapes with small tensors; read back as numbers, they are data to the exporter, of which it knows nothing. Here
such values are arrays of Python's and of the exporter's own integers as long as they are sizes, and tensors where a value of
the model is made of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ts4s_core.onnx.graph.inputs import graph_input
from ts4s_core.onnx.importing.imported_graph import ImportedGraph

#: Elements of an integer constant that may be sizes.
MOST_SIZES = 16


class SymbolicShapes(nn.Module):
    """Computes what the encoder of an imported graph computes, node by node; shares its modules."""

    def __init__(self, graph: ImportedGraph) -> None:
        super().__init__()
        assert graph.operations is not None, "made by assemble"
        self.encoder = graph
        # Read now: what is read while the exporter traces is data to it.
        self._constants = {
            node: _constant(graph.get_buffer(str(node.target))) for node in graph.operations.nodes if node.op == "get_attr"
        }

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` int64 twice to ``(B, T, H)``."""
        operations = self.encoder.operations
        assert operations is not None
        given = iter(self.encoder.graph_inputs)
        values: dict[fx.Node, Any] = {}
        for node in operations.nodes:
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            if node.op == "placeholder":
                name = next(given)
                value = graph_input(name, input_ids, attention_mask, library=torch)
                values[node] = value.to(torch.get_default_dtype()) if name in self.encoder.float_inputs else value
            elif node.op == "get_attr":
                values[node] = self._constants[node]
            elif node.op == "call_module":
                values[node] = _call(self.encoder.get_submodule(str(node.target)), arguments)
            elif node.op == "call_function":
                values[node] = node.target(*arguments)  # type: ignore[operator]
            else:
                hidden: torch.Tensor = arguments[0]
                return hidden
        raise AssertionError("a graph has an output")


def _constant(value: torch.Tensor) -> Any:
    if value.dim() > 1 or value.numel() > MOST_SIZES or value.dtype not in (torch.int64, torch.int32):
        return value
    return np.array(value.tolist(), dtype=object if value.dtype == torch.int64 else np.int32)


def _call(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
    rule = _RULES.get(type(module).__name__)
    if rule is not None:
        result = rule(module, *arguments)
        if result is not None:
            return result
    return module(*(_tensor(value) for value in arguments))


def _tensor(value: Any) -> Any:
    """A value as the modules take it."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.int32:
        return torch.tensor(value.tolist(), dtype=torch.int32)
    sizes = value.reshape(-1).tolist()
    if all(isinstance(size, int | bool) for size in sizes):
        return torch.tensor(value.tolist(), dtype=torch.bool if value.dtype == np.bool_ else torch.int64)
    made = [torch.scalar_tensor(size, dtype=torch.int64) for size in sizes]
    return made[0] if value.ndim == 0 else torch.stack(made)


def _sizes(*values: Any) -> bool:
    return all(isinstance(value, np.ndarray) for value in values)


def _kept(module: nn.Module, name: str) -> Any:
    """An attribute of the ONNX node, as onnx2torch's module keeps it."""
    return vars(module)[f"_{name}"]


def _shape(module: Any, data: Any) -> Any:
    return np.array(list(data.shape)[_kept(module, "start") : _kept(module, "end")], dtype=object)


def _gather(module: Any, data: Any, index: Any) -> Any:
    if not _sizes(index):
        return None
    if _sizes(data):
        return np.array(data[index.astype(np.int64)], dtype=object)
    if index.ndim == 0:
        return data.select(_kept(module, "axis"), index.item())
    return data.index_select(_kept(module, "axis"), _tensor(index)) if index.ndim == 1 else None


def _gather_nd(module: Any, data: Any, index: Any) -> Any:
    # The library's own compares sizes, which fixes them.
    if _kept(module, "batch_dims") or _sizes(data) or _sizes(index) or index.shape[-1] != data.dim():
        return None
    return data[tuple(index.unbind(-1))]


def _unsqueeze(module: Any, data: Any, axes: Any = None) -> Any:
    chosen = _kept(module, "axes") if axes is None else axes.tolist() if _sizes(axes) else None
    if chosen is None:
        return None
    if _sizes(data):
        return np.expand_dims(data, tuple(chosen))
    rank = data.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        data = data.unsqueeze(axis)
    return data


def _squeeze(module: Any, data: Any, axes: Any = None) -> Any:
    chosen = getattr(module, "axes", None) if axes is None else axes.tolist() if _sizes(axes) else None
    if _sizes(data):
        return np.squeeze(data, None if chosen is None else tuple(chosen))
    return None if chosen is None else data.squeeze(tuple(chosen))


def _concat(module: Any, *pieces: Any) -> Any:
    return np.concatenate(pieces) if _sizes(*pieces) else None


def _cast(module: Any, data: Any) -> Any:
    return data if _sizes(data) and module.torch_dtype in (torch.int64, torch.int32) else None


def _arithmetic(module: Any, first: Any, second: Any) -> Any:
    if not _sizes(first, second) or np.int32 in (first.dtype, second.dtype):
        return None
    known: dict[Any, Callable[[Any, Any], Any]] = {torch.add: operator.add, torch.sub: operator.sub, torch.mul: operator.mul}
    return np.array(known.get(module.math_op_function, operator.floordiv)(first, second), dtype=object)


def _compare(module: Any, first: Any, second: Any) -> Any:
    return np.array(first == second) if _sizes(first, second) and module.compare_function is torch.eq else None


def _where(module: Any, condition: Any, first: Any, second: Any) -> Any:
    return np.array(np.where(condition, first, second), dtype=object) if _sizes(condition, first, second) else None


def _range(module: Any, start: Any, limit: Any, delta: Any) -> Any:
    return torch.arange(start.item(), limit.item(), delta.item()) if _sizes(start, limit, delta) else None


def _constant_of_shape(module: Any, shape: Any) -> Any:
    if not _sizes(shape):
        return None
    sizes = shape.tolist()
    if module.value.dtype == torch.int64 and len(sizes) == 1 and isinstance(sizes[0], int) and sizes[0] <= MOST_SIZES:
        return np.full(sizes, module.value.item(), dtype=object)
    return torch.full(sizes, module.value.item(), dtype=module.value.dtype)


def _expand(module: Any, data: Any, shape: Any) -> Any:
    if not _sizes(shape):
        return None
    data, joined = _tensor(data), torch.broadcast_shapes
    return data.expand(joined(tuple(data.shape), tuple(shape.tolist())))  # type: ignore[no-untyped-call]


def _reshape(module: Any, data: Any, shape: Any = None) -> Any:
    if shape is None and _sizes(data) and min(module.shape, default=0) >= -1:
        return data.reshape(module.shape)
    if not _sizes(shape):
        return None
    wanted = shape.tolist()
    if not module.allowzero:
        wanted = [data.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(wanted)]
    return data.reshape(wanted)


def _slice(module: Any, data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    if not _sizes(*(value for value in (starts, ends, axes, steps) if value is not None)):
        return None
    chosen = range(starts.size) if axes is None else axes.tolist()
    strides = [1] * starts.size if steps is None else steps.tolist()
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(chosen, starts.tolist(), ends.tolist(), strides, strict=True):
        index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _split(module: Any, data: Any, sizes: Any = None) -> Any:
    return torch.split(data, sizes.tolist(), dim=module.axis) if _sizes(sizes) and hasattr(module, "axis") else None


def _tile(module: Any, data: Any, repeats: Any) -> Any:
    return data.repeat(repeats.tolist()) if _sizes(repeats) else None


def _cum_sum(module: Any, data: Any, axis: Any) -> Any:
    return module(data, axis.item()) if _sizes(axis) else None


#: By the class of a converted node; None: the module itself does it.
_RULES: dict[str, Callable[..., Any]] = {
    "OnnxShape": _shape,
    "OnnxGather": _gather,
    "OnnxGatherND": _gather_nd,
    "OnnxUnsqueezeStaticAxes": _unsqueeze,
    "OnnxUnsqueezeDynamicAxes": _unsqueeze,
    "OnnxSqueezeStaticAxes": _squeeze,
    "OnnxSqueezeDynamicAxes": _squeeze,
    "OnnxConcat": _concat,
    "OnnxCast": _cast,
    "OnnxBinaryMathOperation": _arithmetic,
    "OnnxCompare": _compare,
    "OnnxWhere": _where,
    "OnnxRange": _range,
    "OnnxConstantOfShape": _constant_of_shape,
    "OnnxExpand": _expand,
    "OnnxTile": _tile,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "CumSum": _cum_sum,
}
