"""Attention: the operator of opset 23, and its decomposition, become one native node; Reshape gets a static form.

Shapes: ``B`` texts, ``T`` tokens, ``h`` heads, ``d`` size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.onnx.graph.graph import DOMAIN, Dim, Graph, Node
from ts4s_core.onnx.rewriting.constants import symbols
from ts4s_core.onnx.rewriting.patterns import Pattern

_SWAP_LAST = [0, 1, 3, 2]


def rewrite_attention(graph: Graph) -> None:
    """Both forms of attention become ``Attention`` (query, key, value, mask) on four-dimensional inputs."""
    for node in list(graph.nodes):
        if node.op == "Attention" and not node.domain and not node.attributes.get("q_num_heads"):
            refuse_attention_extras(node.label, node.attributes, inputs=node.inputs, outputs=node.outputs)
            attributes = {"is_causal": int(node.attributes.get("is_causal", 0))}
            _set_scale(graph, attributes, node.inputs[0], node.attributes.get("scale"))
            node.domain, node.attributes, node.inputs = DOMAIN, attributes, node.inputs[:4]
    pattern = Pattern(graph)
    for node in list(graph.nodes):
        if node.op == "MatMul" and not node.domain:
            _fuse(graph, pattern, node)


def refuse_attention_extras(label: str, attributes: dict[str, Any], *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse what only a text generator with a cache uses.

    Raises:
        UnsupportedModelError: the node has a soft cap, a cache, or gives its scores out.
    """
    extras = ["softcap"] if attributes.get("softcap", 0.0) else []
    extras += ["past keys and values"] if any(inputs[4:]) else []
    extras += ["more than one output"] if len(outputs) > 1 else []
    if extras:
        raise UnsupportedModelError(
            f"Import of {label}: expected plain attention with a mask, got {' and '.join(extras)}. Export without a cache"
        )


def _set_scale(graph: Graph, attributes: dict[str, Any], query: str, scale: float | None) -> None:
    """Leave the scale out where it is the usual ``1 / sqrt(d)``: ONNX keeps it in float32 alone."""
    shape = graph.shapes.get(query, ())
    size = shape[-1] if shape else None
    if scale is None or (isinstance(size, int) and math.isclose(scale, size**-0.5, rel_tol=1e-6)):
        return
    attributes["scale"] = scale


def _fuse(graph: Graph, pattern: Pattern, node: Node) -> None:
    """``softmax(q k^T * scale + mask) v``, with the guards and scalings that exporters put in."""
    weights = _past_guards(pattern, node.inputs[0])
    softmax = pattern.made_by(weights, "Softmax")
    if softmax is None or softmax.attributes.get("axis", -1) not in (-1, 3):
        return
    scores, mask = softmax.inputs[0], ""
    add = pattern.made_by(scores, "Add")
    if add is not None:
        left, right = add.inputs
        if pattern.made_by(pattern.scaled(left)[0], "MatMul") is None:
            left, right = right, left
        scores, mask = left, right
    product, scale = pattern.scaled(scores)
    matmul = pattern.made_by(product, "MatMul")
    if matmul is None:
        return
    query, by_query = pattern.scaled(matmul.inputs[0])
    key_t, by_key = pattern.scaled(matmul.inputs[1])
    transpose = pattern.made_by(key_t, "Transpose")
    if transpose is None or len(transpose.attributes.get("perm", [])) != 4:
        return
    inner, inside = pattern.scaled(transpose.inputs[0])
    key = _untransposed(graph, transpose, inner)
    attributes: dict[str, Any] = {"is_causal": 0}
    _set_scale(graph, attributes, query, scale * by_query * by_key * inside)
    if "scale" not in attributes and not isinstance((graph.shapes.get(query) or (None,))[-1], int):
        attributes["scale"] = scale * by_query * by_key * inside
    node.op, node.domain, node.attributes = "Attention", DOMAIN, attributes
    node.inputs = [query, key, node.inputs[1]] + ([mask] if mask else [])


def _past_guards(pattern: Pattern, value: str) -> str:
    """Look behind ``Where(IsNaN(w), 0, w)``, which exporters write for rows without a key."""
    where = pattern.made_by(value, "Where")
    if where is not None and pattern.made_by(where.inputs[0], "IsNaN") is not None:
        return where.inputs[2]
    return value


def _untransposed(graph: Graph, transpose: Node, source: str) -> str:
    """The key as ``(B, h, T, d)``, given the node that made ``(B, h, d, T)`` of it."""
    perm = list(transpose.attributes["perm"])
    wanted = [perm[axis] for axis in _SWAP_LAST]
    if wanted == [0, 1, 2, 3]:
        return source
    key = graph.fresh("key")
    graph.insert(Node("Transpose", [source], [key], {"perm": wanted}, scope=transpose.scope), before=transpose)
    shape = graph.shapes.get(source)
    if shape:
        graph.shapes[key] = tuple(shape[axis] for axis in wanted)
    return key


def rewrite_reshapes(graph: Graph) -> None:
    """Reshape to a computed shape becomes one that copies the dynamic dimensions from its own input.

    A fixed dimension that stands at the same place before and after is copied too: that is what makes a graph that was
    exported for one batch and one length take others. The importer checks the outcome against ONNX Runtime.
    """
    producers = graph.producers()
    for node in graph.nodes:
        if node.op != "Reshape" or node.domain:
            continue
        before = graph.shapes.get(node.inputs[0])
        after = symbols(graph, node.inputs[1], producers)
        if before is None or after is None:
            continue
        target = _target(list(before), after, allowzero=bool(node.attributes.get("allowzero", 0)))
        if target is not None:
            node.domain, node.inputs, node.attributes = DOMAIN, node.inputs[:1], {"shape": target}


def _target(before: list[Dim], after: list[Dim], *, allowzero: bool) -> list[int] | None:
    target: list[int] = []
    for axis, dim in enumerate(after):
        if dim == 0 and allowzero:
            return None
        same = axis < len(before) and (dim == before[axis] or dim == 0)
        if same and dim is not None:
            target.append(-2 - axis)
        elif isinstance(dim, int):
            target.append(dim)
        elif dim in before:
            target.append(-2 - before.index(dim))
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def flatten_sandwiches(graph: Graph) -> None:
    """``Reshape to (B * T, H), Linear, Reshape to (B, T, out)``: the Linear takes three dimensions itself (GPT-2)."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        if node.op != "Linear" or node.domain != DOMAIN:
            continue
        inner = producers.get(node.inputs[0])
        readers = consumers.get(node.outputs[0], [])
        if inner is None or inner.op != "Reshape" or len(readers) != 1 or readers[0].op != "Reshape":
            continue
        source, result = graph.shapes.get(inner.inputs[0]), graph.shapes.get(readers[0].outputs[0])
        width = node.attributes["shape"][0 if node.attributes["in_out"] else 1]
        if not source or not result or source[-1] != width or source[:-1] != result[:-1] or None in source:
            continue
        node.inputs = [inner.inputs[0]]
        node.outputs = readers[0].outputs
        readers[0].outputs = [graph.fresh("unused")]
    graph.prune()


def mark_projections(graph: Graph) -> None:
    """Say of every Linear that makes queries, keys or values alone which of them: LoRA asks."""
    producers = graph.producers()
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op == "Attention":
            for role, value in zip(("query", "key", "value"), node.inputs, strict=False):
                source = _linear_behind(producers, value)
                if source is not None:
                    # One Linear for all three (GPT-2) is split or read several times behind.
                    source.attributes["role"] = (
                        role if len(consumers[source.outputs[0]]) == 1 and not _split(consumers, source) else "fused"
                    )


def _linear_behind(producers: dict[str, Node], value: str) -> Node | None:
    while (node := producers.get(value)) is not None:
        if node.op == "Linear" and node.domain == DOMAIN:
            return node
        if node.op not in ("Reshape", "Transpose", "Mul", "Div", "RotaryEmbedding", "Unsqueeze", "Expand", "Split"):
            return None
        value = node.inputs[0]
    return None


def _split(consumers: dict[str, list[Node]], node: Node) -> bool:
    readers = consumers[node.outputs[0]]
    return readers[0].op == "Split" or (
        readers[0].op == "Reshape" and any(r.op == "Split" for r in consumers[readers[0].outputs[0]])
    )
