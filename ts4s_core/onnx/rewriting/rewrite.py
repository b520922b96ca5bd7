"""The rewrites in their order: from any exporter's graph to one of native nodes.

What is taken: opsets 11 to 23; inputs ``input_ids`` and, where the graph has them, ``attention_mask``, ``token_type_ids``
and ``position_ids``, each ``(batch, sequence)``, dynamic or fixed (up to 32,768 tokens); the first output,
``(batch, sequence, hidden or vocabulary)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from ts4s_core.errors import UnsupportedModelError, listed
from ts4s_core.onnx.graph.graph import DOMAIN, Array, Graph, Node, read_graph
from ts4s_core.onnx.graph.inputs import INPUTS
from ts4s_core.onnx.rewriting.attention import flatten_sandwiches, mark_projections, rewrite_attention, rewrite_reshapes
from ts4s_core.onnx.rewriting.constants import anchor_shapes, fold_static_shapes, infer_shapes, simplify
from ts4s_core.onnx.rewriting.masks import simplify_indices, simplify_masks
from ts4s_core.onnx.rewriting.patterns import fuse_gelu, fuse_layer_norm
from ts4s_core.onnx.rewriting.weights import (
    flip_transposes,
    materialise,
    name_weights,
    rewrite_embedding,
    rewrite_layer_norm,
    rewrite_linear,
)
from ts4s_core.onnx.sources.onnx_file import NEWEST_OPSET, OLDEST_OPSET

#: A graph of one shape is run on batches of that shape, however few rows there are.
MAX_FIXED_TOKENS = 2**15


@dataclass(frozen=True)
class Rewritten:
    """A graph of native nodes and its weights.

    Attributes:
        graph: refers to weights by state-dict name.
        tensors: float32 tensors by state-dict name, in the order of first use.
        fixed: batch and length, if the file was exported for one shape.
    """

    graph: Graph
    tensors: dict[str, Array]
    fixed: tuple[int, int] | None


def rewrite(path: Path, names: Mapping[str, Any] | None) -> Rewritten:
    """Read an ONNX file and rewrite it.

    Args:
        path: the file.
        names: the content of ``names.json``, or None for a file made elsewhere.

    Raises:
        SourceError: the file cannot be read, or does not fit its names.
        UnsupportedModelError: an opset, an input or an output that is not taken.
    """
    graph, floats = read_graph(path)
    _check(graph, path.name)
    fixed = _fixed(graph, path.name)
    graph.prune()
    simplify(graph, floats)
    fold_static_shapes(graph)
    infer_shapes(graph, {name: array.shape for name, array in floats.items()})
    anchor_shapes(graph)
    tensors = name_weights(graph, floats, names)
    flip_transposes(graph)
    fuse_layer_norm(graph)
    fuse_gelu(graph)
    rewrite_layer_norm(graph)
    rewrite_linear(graph)
    rewrite_embedding(graph)
    graph.prune()
    rewrite_attention(graph)
    simplify_masks(graph, fixed=fixed)
    simplify_indices(graph, fixed=fixed)
    rewrite_reshapes(graph)
    graph.prune()
    flatten_sandwiches(graph)
    mark_projections(graph)
    materialise(graph)
    _own_operators(graph)
    if fixed is not None:
        _shorten_tables(graph, fixed[1])
    graph.prune()
    used = {
        node.attributes[local]
        for node in graph.nodes
        for local in ("weight", "bias")
        if node.domain == DOMAIN and local in node.attributes
    }
    return Rewritten(graph, {name: tensor for name, tensor in tensors.items() if name in used}, fixed)


def _check(graph: Graph, file: str) -> None:
    if not OLDEST_OPSET <= graph.opset <= NEWEST_OPSET:
        raise UnsupportedModelError(
            f"Import of {file}: expected an ONNX opset of {OLDEST_OPSET} to {NEWEST_OPSET}, got {graph.opset}. Export it again"
        )
    for name in list(graph.inputs):
        known = INPUTS.get(name)
        rank = len(graph.shapes.get(name, (None, None)))
        if known is None or rank != 2:
            raise UnsupportedModelError(
                f"Import of {file}: expected the inputs {listed(sorted(set(INPUTS.values())))}, each (batch, sequence), got "
                f"{name} of {rank} dimensions. Export the model with those inputs alone"
            )
        _rename_input(graph, name, known)
    if "input_ids" not in graph.inputs:
        raise UnsupportedModelError(
            f"Import of {file}: expected an input input_ids, got {listed(graph.inputs)}. Export it with one"
        )
    if len(graph.shapes.get(graph.output, (None,) * 3)) != 3:
        raise UnsupportedModelError(
            f"Import of {file}: expected a first output of (batch, sequence, hidden), got {graph.output} of "
            f"{len(graph.shapes[graph.output])} dimensions. Export the encoder without its head"
        )


def _rename_input(graph: Graph, old: str, new: str) -> None:
    if old == new:
        return
    graph.inputs[graph.inputs.index(old)] = new
    graph.redirect(old, new)
    graph.shapes[new] = graph.shapes.get(old, (None, None))
    graph.dtypes[new] = graph.dtypes.get(old, TensorProto.INT64)


def _fixed(graph: Graph, file: str) -> tuple[int, int] | None:
    """Batch and length of a graph whose length is a number; a dynamic batch counts as 2."""
    batch, length = graph.shapes.get("input_ids", (None, None))
    if not isinstance(length, int):
        return None
    rows = batch if isinstance(batch, int) else 2
    if min(rows, length) < 1 or rows * length > MAX_FIXED_TOKENS:
        raise UnsupportedModelError(
            f"Import of {file}: expected an input of 1 to {MAX_FIXED_TOKENS:,} tokens where its shape is fixed, got "
            f"{rows} x {length}. Export it with dynamic axes, or with fewer rows"
        )
    return rows, length


def _own_operators(graph: Graph) -> None:
    """Operators that onnx2torch knows, but not as they are needed."""
    for node in graph.nodes:
        if node.domain:
            continue
        if node.op in ("Slice", "CumSum", "Flatten"):
            node.domain = DOMAIN
        elif node.op == "Reshape":
            node.op, node.domain = "DynamicReshape", DOMAIN
        elif node.op == "Cast" and node.attributes["to"] == TensorProto.FLOAT:
            node.op, node.domain, node.attributes = "FloatCast", DOMAIN, {}


def _shorten_tables(graph: Graph, length: int) -> None:
    """Tables as long as the exported length are cut to the length of the tokens at hand."""
    for node in list(graph.nodes):
        if node.op == "Embedding" and node.domain == DOMAIN:
            constant = graph.constants.get(node.inputs[0])
            if constant is not None and constant.ndim and constant.shape[-1] == length:
                node.inputs[0] = _shortened(graph, node, node.inputs[0], constant.ndim - 1)
        elif node.op == "Add" and not node.domain:
            producers = graph.producers()
            for position, value in enumerate(node.inputs):
                maker = producers.get(value)
                shape = maker.attributes.get("shape", []) if maker is not None and maker.op == "Weight" else []
                if len(shape) > 1 and shape[-2] == length:
                    node.inputs[position] = _shortened(graph, node, value, len(shape) - 2)


def _shortened(graph: Graph, node: Node, table: str, axis: int) -> str:
    result = graph.fresh("table")
    graph.insert(Node("SliceTo", [table, "input_ids"], [result], {"axis": axis}, DOMAIN), before=node)
    return result
