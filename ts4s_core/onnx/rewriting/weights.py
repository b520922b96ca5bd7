"""Weights: their names, and MatMul, Gemm, Gather and normalisations that read them as native modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ts4s_core.errors import SourceError, UnsupportedModelError, listed
from ts4s_core.onnx.graph.graph import DOMAIN, Array, Graph, Node, Weight

_INVENTED = re.compile(r"^(\d+|onnx::.*|val_\d+|.*::.*|[A-Za-z_]*\d*)$")
_TABLES = ("inv_freq", "position_ids", "token_type_ids")


def name_weights(graph: Graph, floats: Mapping[str, Array], names: Mapping[str, Any] | None) -> dict[str, Array]:
    """Say which float initializers are weights, and what each is called.

    Args:
        graph: gets ``weights``; float initializers that are no weights become constants.
        floats: float initializers by name, as in the file.
        names: the content of ``names.json``, or None for a file made elsewhere.

    Returns:
        The tensors by state-dict name, in the state dict's orientation, in the order of their first use.

    Raises:
        SourceError: the map names an initializer that the file does not have.
    """
    chosen = _mapped(floats, names) if names else _guessed(graph, floats)
    for initializer, array in floats.items():
        if initializer not in chosen:
            graph.constants[initializer] = array
    graph.weights = {
        initializer: Weight(name, floats[initializer].shape[::-1] if transposed else floats[initializer].shape, transposed)
        for initializer, (name, transposed) in chosen.items()
    }
    tensors: dict[str, Array] = {}
    for node in graph.nodes:
        for value in node.inputs:
            weight = graph.weights.get(value)
            if weight is not None and weight.name not in tensors:
                tensors[weight.name] = np.ascontiguousarray(floats[value].T if weight.transposed else floats[value])
    return tensors


def _mapped(floats: Mapping[str, Array], names: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    tied = names.get("tied", {})
    parameters = names["parameters"]
    missing = [entry["initializer"] for entry in parameters.values() if entry["initializer"] not in floats]
    if missing:
        raise SourceError(
            f"Import of the graph: expected the initializers that names.json names, got none called {listed(missing)}. "
            "Export the model again"
        )
    return {entry["initializer"]: (tied.get(name, name), bool(entry["transposed"])) for name, entry in parameters.items()}


def _guessed(graph: Graph, floats: Mapping[str, Array]) -> dict[str, tuple[str, bool]]:
    """Names for a file without a map: the initializer's own, else its bias' or the node's path, else operator and number."""
    consumers = graph.consumers()
    chosen: dict[str, tuple[str, bool]] = {}
    taken = {name for name in floats if not _invented(name)}
    numbers: dict[str, int] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value not in floats or value in chosen or _is_table(value, floats[value]):
                continue
            if not _invented(value):
                chosen[value] = (value, False)
                continue
            stem = _stem(node, consumers, floats)
            if not stem:
                number = numbers[node.op] = numbers.get(node.op, -1) + 1
                stem = f"{node.op.lower()}_{number}"
            leaf = "bias" if node.op in ("Add", "Gemm") and floats[value].ndim == 1 else "weight"
            name = _unique(f"{stem}.{leaf}", taken)
            # The old exporter folds a Linear's transpose into its weight, which loses its name by that.
            chosen[value] = (name, node.op == "MatMul" and floats[value].ndim == 2 and node.inputs[1] == value)
    return chosen


def _invented(name: str) -> bool:
    return "." not in name or bool(_INVENTED.match(name))


def _is_table(name: str, array: Array) -> bool:
    return any(piece in name for piece in _TABLES) or array.size == 0


def _stem(node: Node, consumers: Mapping[str, list[Node]], floats: Mapping[str, Array]) -> str:
    readers = consumers.get(node.outputs[0], [])
    beside = [value for reader in readers if reader.op == "Add" for value in reader.inputs] + node.inputs
    for value in beside:
        if value in floats and not _invented(value) and value.endswith(".bias"):
            return value.removesuffix(".bias")
    return node.scope


def _unique(name: str, taken: set[str]) -> str:
    stem, _, leaf = name.rpartition(".")
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{stem}_{number}.{leaf}"
    taken.add(unique)
    return unique


def flip_transposes(graph: Graph) -> None:
    """A Transpose of a matrix weight becomes another view of the same weight."""
    kept = []
    for node in graph.nodes:
        weight = graph.weights.get(node.inputs[0]) if node.op == "Transpose" and not node.domain else None
        if weight is not None and len(weight.shape) == 2 and node.attributes.get("perm", [1, 0]) == [1, 0]:
            graph.weights[node.outputs[0]] = Weight(weight.name, weight.shape, not weight.transposed)
        else:
            kept.append(node)
    graph.nodes = kept


def rewrite_linear(graph: Graph) -> None:
    """MatMul with a weight matrix, with the Add of a bias behind it, and Gemm become one ``Linear``."""
    for node in list(graph.nodes):
        if node.domain or node.op not in ("MatMul", "Gemm"):
            continue
        weight = graph.weights.get(node.inputs[1])
        if weight is None or len(weight.shape) != 2:
            continue
        attributes = node.attributes
        if node.op == "Gemm" and (
            attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1
        ):
            continue
        # ONNX multiplies by (in, out): the state dict's own orientation unless the value is its transpose.
        in_out = not weight.transposed
        if node.op == "Gemm" and attributes.get("transB", 0):
            in_out = not in_out
        made: dict[str, Any] = {"weight": weight.name, "shape": list(weight.shape), "in_out": int(in_out)}
        bias = _bias_of_gemm(graph, node) if node.op == "Gemm" else None
        if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2] and bias is None:
            continue
        if bias is not None:
            made["bias"] = bias
        output = node.outputs[0]
        if node.op == "MatMul":
            output = _absorb_bias(graph, node, made)
        node.op, node.domain, node.attributes = "Linear", DOMAIN, made
        node.inputs, node.outputs = [node.inputs[0]], [output]


def _bias_of_gemm(graph: Graph, node: Node) -> str | None:
    weight = graph.weights.get(node.inputs[2]) if len(node.inputs) > 2 else None
    return weight.name if weight is not None and len(weight.shape) == 1 else None


def _absorb_bias(graph: Graph, node: Node, made: dict[str, Any]) -> str:
    """Take the one Add behind a MatMul into it; returns the name of the value that results."""
    output = node.outputs[0]
    readers = [other for other in graph.nodes if output in other.inputs]
    if len(readers) != 1 or readers[0].op != "Add" or readers[0].domain or output == graph.output:
        return output
    other = next((value for value in readers[0].inputs if value != output), "")
    bias = graph.weights.get(other)
    width = made["shape"][1] if made["in_out"] else made["shape"][0]
    if bias is None or bias.shape != (width,):
        return output
    made["bias"] = bias.name
    graph.nodes.remove(readers[0])
    return readers[0].outputs[0]


def rewrite_embedding(graph: Graph) -> None:
    """Gather of rows of a weight matrix becomes ``Embedding``."""
    for node in graph.nodes:
        weight = graph.weights.get(node.inputs[0]) if node.op == "Gather" and not node.domain else None
        if weight is None or len(weight.shape) != 2 or weight.transposed or node.attributes.get("axis", 0) != 0:
            continue
        node.op, node.domain, node.inputs = "Embedding", DOMAIN, [node.inputs[1]]
        node.attributes = {"weight": weight.name, "shape": list(weight.shape)}


def rewrite_layer_norm(graph: Graph) -> None:
    """LayerNormalization over the last axis becomes ``LayerNorm``."""
    for node in graph.nodes:
        if node.op != "LayerNormalization" or node.domain or len(node.outputs) != 1:
            continue
        held = [graph.weights.get(value) for value in node.inputs[1:]]
        rank = len(graph.shapes.get(node.inputs[0], ()))
        last = node.attributes.get("axis", -1) in (-1, rank - 1)
        if last and all(weight is not None and len(weight.shape) == 1 for weight in held):
            names = [weight.name for weight in held if weight is not None]
            size = next(weight.shape[0] for weight in held if weight is not None)
            make_layer_norm(node, names, size=size, epsilon=node.attributes.get("epsilon", 1e-5))


def make_layer_norm(node: Node, names: list[str], *, size: int, epsilon: float) -> None:
    """Turn a node into ``LayerNorm`` of its first input with the weights of these names (weight, bias)."""
    node.op, node.domain, node.inputs = "LayerNorm", DOMAIN, node.inputs[:1]
    # ONNX keeps epsilon in float32: 1e-12 comes back as 9.99999996e-13.
    node.attributes = {**dict(zip(("weight", "bias"), names, strict=False)), "size": size, "epsilon": float(f"{epsilon:.6g}")}


def materialise(graph: Graph) -> None:
    """Weights that an operator takes as a plain input become nodes of their own."""
    made: dict[str, str] = {}
    for node in list(graph.nodes):
        for position, value in enumerate(node.inputs):
            weight = graph.weights.get(value)
            if weight is None:
                continue
            if value not in made:
                attributes: dict[str, Any] = {"weight": weight.name, "transposed": int(weight.transposed)}
                if weight.shape:  # ONNX has no empty list
                    attributes["shape"] = list(weight.shape)
                if weight.transposed and len(weight.shape) != 2:
                    raise UnsupportedModelError(
                        f"Import of {node.label}: expected a matrix where names.json says transposed, got shape {weight.shape}. "
                        "Export the model again"
                    )
                made[value] = graph.fresh("weight")
                graph.insert(Node("Weight", [], [made[value]], attributes, DOMAIN, scope=node.scope), before=node)
            node.inputs[position] = made[value]
    graph.weights = {}
