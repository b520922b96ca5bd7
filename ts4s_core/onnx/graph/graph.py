"""An ONNX graph that can be changed: nodes, constants and weights as plain Python values.

Weights are not held here: a value that is a weight is known by its name and shape alone, so that a graph of a few hundred
nodes stays small whatever the model's size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ts4s_core.errors import IntegrityError, SourceError
from ts4s_core.onnx.graph.checks import refuse_absent_dimensions, refuse_absent_inputs, refuse_disorder
from ts4s_core.onnx.graph.protos import opset_of, plain_domain

#: Domain of the nodes that ts4s puts in place of ONNX patterns; ``converters.native`` turns them into modules.
DOMAIN = "ts4s"
Dim = int | str | None
Array = NDArray[Any]


@dataclass
class Node:
    """One operation. ``scope`` is the path of the module it comes from, as far as the file names it."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    scope: str = ""

    @property
    def label(self) -> str:
        """What an error message calls it."""
        return f"node {self.name or self.outputs[0]} (operator {self.domain + '.' if self.domain else ''}{self.op})"


@dataclass(frozen=True)
class Weight:
    """A value of the graph that is a trainable tensor.

    Attributes:
        name: its state-dict name.
        shape: its shape in the state dict.
        transposed: whether the graph's value is the transpose of the state dict's tensor.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


@dataclass
class Graph:
    """A graph with one output (hidden states or logits). ``shapes`` hold what ONNX's shape inference found."""

    nodes: list[Node]
    inputs: list[str]
    output: str
    opset: int
    constants: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    shapes: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    ir_version: int = 10
    _made: int = 0

    def producers(self) -> dict[str, Node]:
        """The node that makes each value."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, once per read."""
        readers: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in node.inputs:
                if value:
                    readers[value].append(node)
        return readers

    def scalar(self, value: str) -> float | None:
        """The number that a constant of one element holds, else None."""
        array = self.constants.get(value)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def fresh(self, hint: str) -> str:
        """A value name that is not in use."""
        self._made += 1
        return f"ts4s::{hint}_{self._made}"

    def constant(self, array: Array, hint: str = "constant") -> str:
        """Add a constant and return its name."""
        name = self.fresh(hint)
        self.constants[name] = array
        return name

    def redirect(self, old: str, new: str) -> None:
        """Let every reader of ``old`` read ``new``."""
        for node in self.nodes:
            node.inputs = [new if value == old else value for value in node.inputs]
        if self.output == old:
            self.output = new

    def insert(self, node: Node, *, before: Node) -> Node:
        """Put a node in front of another."""
        position = next(index for index, other in enumerate(self.nodes) if other is before)
        self.nodes.insert(position, node)
        return node

    def prune(self) -> None:
        """Remove nodes, constants and weights that the output does not depend on; unread trailing outputs too."""
        needed = {self.output}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                while len(node.outputs) > 1 and node.outputs[-1] not in needed:
                    node.outputs.pop()
                needed.update(value for value in node.inputs if value)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}
        self.weights = {name: weight for name, weight in self.weights.items() if name in needed}

    def ancestors(self, value: str) -> list[Node]:
        """The nodes that a value depends on, in order."""
        needed, found = {value}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                found.append(node)
        return found[::-1]

    def to_model(self, output: str | None = None) -> onnx.ModelProto:
        """The graph as ONNX; with ``output``, the part of it that makes that value. No weight may be left as an input."""
        target = output or self.output
        nodes = self.nodes if output is None else self.ancestors(output)
        used = {value for node in nodes for value in node.inputs}
        initializers = [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in used]
        inputs = [
            helper.make_tensor_value_info(name, self.dtypes.get(name, TensorProto.INT64), self.shapes.get(name))
            for name in self.inputs
            if output is None or name in used
        ]
        made = helper.make_graph(
            [_proto(node) for node in nodes],
            "ts4s",
            inputs,
            [helper.make_tensor_value_info(target, self.dtypes.get(target, TensorProto.FLOAT), None)],
            initializers,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(made, opset_imports=opsets, ir_version=self.ir_version, producer_name="ts4s")


def _proto(node: Node) -> onnx.NodeProto:
    return helper.make_node(node.op, node.inputs, node.outputs, name=node.name, domain=node.domain, **node.attributes)


def same_scalar(found: float | None, expected: float) -> bool:
    """Whether a constant is this number, in float32 or float64."""
    return found is not None and math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-12)


def read_graph(path: Path) -> tuple[Graph, dict[str, Array]]:
    """Read a model file.

    Args:
        path: the ``.onnx`` file; weights kept beside it (ONNX external data) are read too.

    Returns:
        The graph, with every initializer that is no float tensor as a constant, and the float initializers by name.

    Raises:
        SourceError: the file cannot be read, or is no ONNX model.
    """
    try:
        # First: shape inference ends the process at some of the graphs that the checker refuses.
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
        floats = dict(_floats(model, path.parent))
        model = onnx.shape_inference.infer_shapes(model)
        refuse_absent_dimensions(model.graph)
        refuse_absent_inputs(model)
    except Exception as exc:
        raise SourceError(
            f"Reading of model {path.name}: expected an ONNX file with its weights, got {exc}. Export it again"
        ) from exc
    if not model.graph.output:
        raise SourceError(f"Reading of model {path.name}: expected an ONNX graph with an output, got none. Export it again")
    return graph_of(model, skip=set(floats)), floats


def load_own_graph(path: Path) -> Graph:
    """A graph that was rewritten here: ``graph.onnx`` of a model. ONNX's checker does not take it, its output has no shape.

    Raises:
        IntegrityError: it is missing, damaged or not in order.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        refuse_absent_inputs(model)
        return graph_of(model)
    except Exception as exc:
        raise IntegrityError(f"Reading of {path.name}: expected an ONNX graph, got {exc}. Make the model again") from exc


def graph_of(model: onnx.ModelProto, *, skip: Iterable[str] = ()) -> Graph:
    """The changeable form of a model; initializers named in ``skip`` are left out.

    Raises:
        ValueError: if a node reads what no node before it makes.
    """
    refuse_disorder(model.graph)
    skipped = set(skip)
    initializers = {tensor.name for tensor in model.graph.initializer}
    graph = Graph(
        nodes=[_node(proto) for proto in model.graph.node],
        inputs=[value.name for value in model.graph.input if value.name not in initializers],
        output=model.graph.output[0].name,
        opset=opset_of(model),
        ir_version=model.ir_version,
    )
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        tensor = value.type.tensor_type
        graph.dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            graph.shapes[value.name] = dims_of(tensor.shape)
    for tensor in model.graph.initializer:
        graph.dtypes[tensor.name] = tensor.data_type
        graph.shapes[tensor.name] = tuple(tensor.dims)
        if tensor.name not in skipped:
            graph.constants[tensor.name] = numpy_helper.to_array(tensor).copy()
    return graph


def run_part(graph: Graph, output: str, feed: dict[str, Array]) -> Array:
    """The value ``output`` for these inputs, computed with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.to_model(output).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = {value.name for value in session.get_inputs()}
    result: Array = session.run(None, {name: array for name, array in feed.items() if name in wanted})[0]
    return result


def _floats(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[str, Array]]:
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for tensor in model.graph.initializer:
        outside = tensor.data_location == TensorProto.EXTERNAL
        if not outside and tensor.data_type not in kinds:
            continue
        # A copy: the bytes of an external tensor must not end up in the model, which is serialised for shape inference.
        copy = TensorProto()
        copy.CopyFrom(tensor)
        array = numpy_helper.to_array(copy, base_dir=str(folder))
        if tensor.data_type in kinds:
            yield tensor.name, array.astype(np.float32, copy=False)
            tensor.data_type = TensorProto.FLOAT
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("double_data")
            tensor.ClearField("int32_data")
            _hollow(tensor)
        else:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _hollow(tensor: TensorProto) -> None:
    """Leave a tensor's type and dimensions; its bytes are said to lie elsewhere."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "model.safetensors"


def dims_of(shape: onnx.TensorShapeProto) -> tuple[Dim, ...]:
    """A shape's numbers and names; None where nothing is known."""
    return tuple(_dim(dim) for dim in shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _node(proto: onnx.NodeProto) -> Node:
    attributes = {attribute.name: _attribute(attribute) for attribute in proto.attribute}
    scopes = next((entry.value for entry in proto.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    names = [piece.strip(" '\"") for piece in scopes.strip("[]").split(",")]
    scope = names[-2] if len(names) > 1 else proto.name.strip("/").rpartition("/")[0].replace("/", ".")
    return Node(proto.op_type, list(proto.input), list(proto.output), attributes, plain_domain(proto.domain), proto.name, scope)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.type in (attribute.INTS, attribute.FLOATS) else value
