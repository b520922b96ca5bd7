"""Building a graph of standard ONNX operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ts4s_core.onnx.graph.graph import Array, Dim, Graph


@dataclass(frozen=True)
class WeightUse:
    """A tensor of the state dict as the graph wants it."""

    name: str
    transposed: bool


@dataclass
class Lowered:
    """A graph of standard operators.

    Attributes:
        nodes: in an order that can be run.
        constants: small tensors by value name.
        weights: the tensor behind each weight's value name.
        inputs: the graph's inputs.
        shapes: their shapes.
        dtypes: their element types.
        output: name of the one output.
        opset: its opset.
        ir_version: its format.
    """

    inputs: list[str]
    shapes: dict[str, tuple[Dim, ...]]
    dtypes: dict[str, int]
    opset: int
    ir_version: int
    output: str = ""
    output_shape: tuple[Dim, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, WeightUse] = field(default_factory=dict)


class GraphBuilder:
    """Adds standard nodes and constants to a graph, each value under a name of its own."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opset = graph.opset
        shapes = {name: graph.shapes.get(name, ("batch", "sequence")) for name in graph.inputs}
        dtypes = {name: graph.dtypes.get(name, TensorProto.INT64) for name in graph.inputs}
        self.result = Lowered(list(graph.inputs), shapes, dtypes, graph.opset, graph.ir_version)
        self.result.constants.update(graph.constants)
        self.producers = graph.producers()
        self.additive: dict[str, str] = {}
        self._made = 0
        self._past = ""
        self._uses: dict[WeightUse, str] = {}

    def fresh(self, hint: str) -> str:
        """A value name that nothing in the graph has."""
        self._made += 1
        return f"ts4s/{hint}_{self._made}"

    def emit(self, op: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; the name of that output."""
        output = output or self.fresh(op.lower())
        self.result.nodes.append(helper.make_node(op, inputs, [output], name=f"ts4s/{op}/{output}", **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Add a small tensor; its value name."""
        name = self.fresh("constant")
        self.result.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """The value name of a tensor of the state dict."""
        use = WeightUse(name, transposed)
        if use not in self._uses:
            self._uses[use] = f"{name}.T" if transposed else name
            self.result.weights[self._uses[use]] = use
        return self._uses[use]

    def unsqueeze(self, value: str, axes: list[int]) -> str:
        """Add axes of size 1."""
        if self.opset >= 13:
            return self.emit("Unsqueeze", [value, self.constant(axes)])
        return self.emit("Unsqueeze", [value], axes=axes)

    def squeeze(self, value: str, axes: list[int]) -> str:
        """Remove axes of size 1."""
        if self.opset >= 13:
            return self.emit("Squeeze", [value, self.constant(axes)])
        return self.emit("Squeeze", [value], axes=axes)

    def reduce(self, op: str, value: str, axes: list[int]) -> str:
        """Over some axes, which stay with size 1."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.emit(op, [value, self.constant(axes)], keepdims=1)
        return self.emit(op, [value], axes=axes, keepdims=1)

    def size(self, value: str, axis: int) -> str:
        """The length of an axis, as ``(1,)``."""
        return self.emit("Gather", [self.emit("Shape", [value]), self.constant([axis])])

    def length(self) -> str:
        """Number of tokens, a scalar."""
        return self.emit("Gather", [self.emit("Shape", ["input_ids"]), self.constant(1)])

    def past_once(self) -> str:
        """``(T, T)`` bool: which keys lie not behind the query."""
        self._past = self._past or self._not_future()
        return self._past

    def _not_future(self) -> str:
        positions = self.emit("Range", [self.constant(0), self.length(), self.constant(1)])
        future = self.emit("Less", [self.unsqueeze(positions, [1]), self.unsqueeze(positions, [0])])
        return self.emit("Not", [future])
