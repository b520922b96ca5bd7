"""First rewrites: constant folding, and removal of nodes that do nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from ts4s_core.onnx.graph.graph import Array, Dim, Graph, Node, dims_of

#: Larger results are left to be computed when the model runs.
MAX_FOLDED = 1 << 20
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def simplify(graph: Graph, floats: dict[str, Array]) -> None:
    """Fold constants and static shapes, drop Identity, Dropout (of eval mode) and casts to the type a value has already.

    Args:
        graph: changed in place.
        floats: the float initializers; single numbers move to the graph's constants, tensors held in Constant nodes are added.
    """
    for name in [name for name, array in floats.items() if array.size == 1 and not _is_weight_name(name)]:
        graph.constants[name] = floats.pop(name)
    kept: list[Node] = []
    alias: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = [alias.get(value, value) for value in node.inputs]
        if _does_nothing(graph, node) and not (node.inputs[0] in floats and node.outputs[0] != graph.output):
            alias[node.outputs[0]] = node.inputs[0]
        elif node.op == "Identity" and node.inputs[0] in floats:
            _share(floats, node, alias)
        elif not _fold(graph, node, floats):
            kept.append(node)
    graph.nodes = kept
    graph.output = alias.get(graph.output, graph.output)


def symbols(graph: Graph, value: str, producers: dict[str, Node]) -> list[Dim] | None:
    """The entries of an integer vector that describes a shape: numbers, names of dynamic dimensions, None if unknown.

    Returns:
        None if the value is no such vector.
    """
    array = graph.constants.get(value)
    if array is not None:
        return [int(entry) for entry in array.reshape(-1)] if array.dtype.kind in "iu" and array.size <= 16 else None
    node = producers.get(value)
    if node is None or node.domain:
        return None
    if node.op == "Shape":
        shape = graph.shapes.get(node.inputs[0])
        if shape is None:
            return None
        dims: list[Dim] = [dim if dim is not None else f"{node.inputs[0]}@{axis}" for axis, dim in enumerate(shape)]
        return dims[node.attributes.get("start", 0) : node.attributes.get("end", len(dims))]
    if node.op in ("Unsqueeze", "Squeeze", "Cast", "Reshape", "Identity"):
        return symbols(graph, node.inputs[0], producers)
    if node.op == "Concat":
        parts = [symbols(graph, part, producers) for part in node.inputs]
        return [dim for part in parts for dim in part] if all(part is not None for part in parts) else None  # type: ignore[union-attr]
    return _picked(graph, node, producers)


def _picked(graph: Graph, node: Node, producers: dict[str, Node]) -> list[Dim] | None:
    if node.op not in ("Gather", "Slice"):
        return None
    dims = symbols(graph, node.inputs[0], producers)
    if dims is None:
        return None
    if node.op == "Gather":
        indices = graph.constants.get(node.inputs[1])
        return None if indices is None else [dims[int(index)] for index in indices.reshape(-1)]
    bounds = [graph.constants.get(value) for value in node.inputs[1:3]]
    if len(node.inputs) < 3 or any(bound is None for bound in bounds) or len(node.inputs) > 4:
        return None
    first, last = (int(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
    return dims[first:last]


def fold_static_shapes(graph: Graph) -> None:
    """Replace what is computed from dimensions that are known by the numbers."""
    changed = True
    while changed:
        changed = False
        producers = graph.producers()
        kept = []
        for node in graph.nodes:
            folded = _fold(graph, node, {})
            if not folded and node.op in ("Shape", "Gather", "Slice") and len(node.outputs) == 1:
                dims = symbols(graph, node.outputs[0], producers)
                if dims and all(isinstance(dim, int) for dim in dims):
                    vector = np.array(dims, dtype=np.int64)
                    scalar = node.op == "Gather" and graph.constants[node.inputs[1]].ndim == 0
                    graph.constants[node.outputs[0]] = vector.reshape(()) if scalar else vector
                    folded = True
            changed = changed or folded
            if not folded:
                kept.append(node)
        graph.nodes = kept


def infer_shapes(graph: Graph, weights: Mapping[str, tuple[int, ...]]) -> None:
    """Run ONNX's shape inference again: after folding, more is known."""
    hollow = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in weights.items()]
    model = graph.to_model()
    model.graph.input.extend(hollow)
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return  # an operator of another domain, which has no converter either: making the module names it
    for value in inferred.graph.value_info:
        kind = value.type.tensor_type
        graph.dtypes[value.name] = kind.elem_type
        if kind.HasField("shape"):
            known = graph.shapes.get(value.name, ())
            found = dims_of(kind.shape)
            if len(known) != len(found):
                graph.shapes[value.name] = found
            else:  # keep what the exporter knew beyond what ONNX infers
                graph.shapes[value.name] = tuple(
                    new if isinstance(new, int) or old is None else old for new, old in zip(found, known, strict=True)
                )


def anchor_shapes(graph: Graph, *, assume: bool = False) -> None:
    """Read dynamic dimensions off ``input_ids``, not off values inside the model: masks then depend on the inputs alone.

    Args:
        graph: changed in place.
        assume: take values of three dimensions, of which only the last is known, for ``(batch, sequence, hidden)``. For a
            graph whose results are compared afterwards.
    """
    ids = graph.shapes.get("input_ids", ())
    dynamic = [dim for dim in ids if isinstance(dim, str)]
    if len(set(dynamic)) != 2:
        return
    shape_of_ids = graph.fresh("shape")
    changed = False
    for node in list(graph.nodes):
        dims = graph.shapes.get(node.inputs[0]) if node.op == "Shape" and not node.domain else None
        if dims is not None and assume and len(dims) == 3 and isinstance(dims[2], int):
            dims = (*ids, dims[2])
        if dims is None or node.inputs[0] in graph.inputs or not all(isinstance(dim, int) or dim in dynamic for dim in dims):
            continue
        dims = dims[node.attributes.get("start", 0) : node.attributes.get("end", len(dims))]
        numbers = sorted({dim for dim in dims if isinstance(dim, int)})
        pool, position = shape_of_ids, graph.nodes.index(node)
        if numbers:
            pool = graph.fresh("dims")
            constant = graph.constant(np.array(numbers, dtype=np.int64))
            graph.nodes.insert(position, Node("Concat", [shape_of_ids, constant], [pool], {"axis": 0}))
        picks = [dynamic.index(dim) if isinstance(dim, str) else 2 + numbers.index(dim) for dim in dims if dim is not None]
        node.op, node.attributes = "Gather", {"axis": 0}
        node.inputs = [pool, graph.constant(np.array(picks, dtype=np.int64))]
        changed = True
    if changed:
        graph.nodes.insert(0, Node("Shape", ["input_ids"], [shape_of_ids]))


def _does_nothing(graph: Graph, node: Node) -> bool:
    if node.domain or not node.inputs:
        return False
    if node.op == "Cast":
        return bool(graph.dtypes.get(node.inputs[0]) == node.attributes["to"])
    if node.op == "Dropout":
        training = len(node.inputs) > 2 and graph.scalar(node.inputs[2])
        return not training
    return node.op == "Identity"


def _share(floats: dict[str, Array], node: Node, alias: dict[str, str]) -> None:
    """An Identity of a weight: the old exporter writes one for every weight whose value it met before.

    Tensors of one repeated number (fresh norms and biases) are weights of their own; others are truly tied.
    """
    source, target = node.inputs[0], node.outputs[0]
    array = floats[source]
    if array.size and np.all(array == array.flat[0]):
        floats[target] = array.copy()
    else:
        alias[target] = source


def _fold(graph: Graph, node: Node, floats: dict[str, Array]) -> bool:
    """Compute a node whose inputs are constants. Returns whether its outputs are constants now."""
    constants = graph.constants
    if node.domain or node.op in _RANDOM or len(node.outputs) != 1:
        return False
    if any(value and value not in constants for value in node.inputs) or (not node.inputs and node.op != "Constant"):
        return False
    if _size_of_result(graph, node) > MAX_FOLDED:
        return False
    array = _evaluate(graph, node)
    if array is None:
        return False
    if node.op == "Constant" and array.dtype.kind == "f" and array.size > 1:
        floats[node.outputs[0]] = array.astype(np.float32)
    else:
        constants[node.outputs[0]] = array
    graph.shapes[node.outputs[0]] = tuple(array.shape)
    return True


def _evaluate(graph: Graph, node: Node) -> Array | None:
    proto = helper.make_node(node.op, node.inputs, node.outputs, **node.attributes)
    names = [value for value in node.inputs if value]
    if node.op == "Constant" and isinstance(node.attributes.get("value"), onnx.TensorProto):
        return onnx.numpy_helper.to_array(node.attributes["value"]).copy()
    try:
        run: Any = ReferenceEvaluator(proto, opsets={"": graph.opset})
        return np.asarray(run.run(None, {name: graph.constants[name] for name in names})[0])
    except Exception:  # an operator that the reference cannot compute stays a node
        return None


def _size_of_result(graph: Graph, node: Node) -> int:
    target = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op)
    if target is None:
        if node.op == "Range":
            start, limit, delta = (float(graph.constants[value].reshape(())) for value in node.inputs)
            return int(abs((limit - start) / delta)) if delta else 0
        return max((graph.constants[value].size for value in node.inputs if value), default=0)
    sizes = [max(1, int(size)) for size in graph.constants[node.inputs[target]].reshape(-1)]
    rest = 1 if node.op == "ConstantOfShape" else graph.constants[node.inputs[0]].size
    return math.prod(sizes) * rest


def _is_weight_name(name: str) -> bool:
    return name.endswith((".weight", ".bias"))
