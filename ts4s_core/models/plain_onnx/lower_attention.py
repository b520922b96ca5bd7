"""Attention in standard operators: products, a softmax and a mask that adds minus infinity.

ONNX has an operator of its own from opset 23 on. The parts are used for all opsets: on CPUs they are as fast (measured with
ONNX Runtime 1.31), and older runtimes take them too.

Shapes: ``B`` texts, ``h`` heads, ``T`` queries, ``S`` keys, ``d`` size of a head.
"""

from __future__ import annotations

import numpy as np

from ts4s_core.models.plain_onnx.builder import GraphBuilder
from ts4s_core.onnx.graph.graph import Node

#: Added to the score of a hidden key. Not minus infinity: a row without any key would not be a number.
HIDDEN = -1e9
_COMPARISONS = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN"}
_BOOLEAN = frozenset({"And", "Or", "Not", "Xor", "KeyMask", *_COMPARISONS})
_RESHAPES = {"Expand", "Unsqueeze", "Squeeze", "Reshape", "DynamicReshape", "Transpose"}
_PASSED_ON = frozenset({"Slice", "Identity", "Concat", *_RESHAPES})


def lower_attention(work: GraphBuilder, node: Node) -> None:
    """``softmax(q k^T * scale + mask) v``."""
    query, key, value = node.inputs[:3]
    scaled = work.emit("Mul", [query, _scale(work, node)])
    if _grouped(work, query, key):
        key, value = _repeated(work, key, query), _repeated(work, value, query)
    scores = work.emit("MatMul", [scaled, work.emit("Transpose", [key], perm=[0, 1, 3, 2])])
    for mask in _masks(work, node):
        scores = work.emit("Add", [scores, mask])
    weights = work.emit("Softmax", [scores], axis=-1 if work.opset >= 13 else 3)
    work.emit("MatMul", [weights, value], output=node.outputs[0])


def _scale(work: GraphBuilder, node: Node) -> str:
    if node.attributes.get("scale") is not None:
        return work.constant(float(node.attributes["scale"]), np.float32)
    size = _last_size(work, node.inputs[0])
    if size is not None:
        return work.constant(size**-0.5, np.float32)
    measured = work.emit("Cast", [work.size(node.inputs[0], 3)], to=1)
    return work.emit("Div", [work.constant(1.0, np.float32), work.emit("Sqrt", [measured])])


def _last_size(work: GraphBuilder, value: str) -> int | None:
    """``d``, where the reshape into heads says it."""
    while (maker := work.producers.get(value)) is not None:
        if maker.op == "Reshape" and maker.domain:
            size = int(maker.attributes["shape"][-1])
            return size if size > 0 else None
        kept = maker.op == "Transpose" and list(maker.attributes.get("perm", []))[-1:] == [3]
        if not kept and maker.op not in ("RotaryEmbedding", "Mul", "Div"):
            return None
        value = maker.inputs[0]
    return None


def _masks(work: GraphBuilder, node: Node) -> list[str]:
    """What is added to the scores, broadcastable to ``(B, h, T, S)``."""
    found = []
    if len(node.inputs) > 3 and node.inputs[3]:
        mask = node.inputs[3]
        found.append(_additive(work, mask) if _is_bool(work, mask) else mask)
    if node.attributes.get("is_causal", 0):
        found.append(_additive(work, work.past_once()))
    return found


def _additive(work: GraphBuilder, mask: str) -> str:
    if mask not in work.additive:
        numbers = [work.constant(0.0, np.float32), work.constant(HIDDEN, np.float32)]
        work.additive[mask] = work.emit("Where", [mask, *numbers])
    return work.additive[mask]


def _is_bool(work: GraphBuilder, value: str) -> bool:
    while (maker := work.producers.get(value)) is not None:
        if maker.op in _BOOLEAN:
            return True
        if maker.op == "Cast":
            return bool(maker.attributes["to"] == 9)
        if maker.op != "Where" and maker.op not in _PASSED_ON:
            return False
        value = maker.inputs[1 if maker.op == "Where" else 0]
    constant = work.result.constants.get(value)
    return constant is not None and constant.dtype == np.bool_


def _grouped(work: GraphBuilder, query: str, key: str) -> bool:
    """Whether several heads of queries share one of keys, or this is not known from the graph."""
    ours, theirs = _heads(work, query), _heads(work, key)
    return ours is None or theirs is None or ours != theirs


def _heads(work: GraphBuilder, value: str) -> int | None:
    while (maker := work.producers.get(value)) is not None:
        if maker.op == "Reshape" and maker.domain:
            shape = list(maker.attributes["shape"])
            if len(shape) != 4:
                return None
            # (B, T, h, d): a size that is inferred is settled by the hidden size, which is the same for all three
            return int(shape[2]) if shape[2] > 0 else None
        if maker.op not in ("RotaryEmbedding", "Mul", "Div", "Transpose"):
            return None
        value = maker.inputs[0]
    return None


def _repeated(work: GraphBuilder, value: str, query: str) -> str:
    """``(B, g, S, d)`` to ``(B, h, S, d)``: each head of keys or values for its group of queries, in order."""
    groups, heads = work.size(value, 1), work.size(query, 1)
    batch, keys, size = (work.size(value, axis) for axis in (0, 2, 3))
    each = work.emit("Div", [heads, groups])
    wide = work.emit("Concat", [batch, groups, each, keys, size], axis=0)
    spread = work.emit("Expand", [work.unsqueeze(value, [2]), wide])
    return work.emit("Reshape", [spread, work.emit("Concat", [batch, heads, keys, size], axis=0)])
