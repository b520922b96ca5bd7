"""Decomposed LayerNorm and GELU, as exporters below opset 17 and 20 write them, back to one operator each."""

from __future__ import annotations

import math

from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node, same_scalar
from ts4s_core.onnx.rewriting.weights import make_layer_norm

_CUBIC, _SQRT_2_OVER_PI = 0.044715, math.sqrt(2 / math.pi)


class Pattern:
    """Questions about where a value comes from."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers()

    def made_by(self, value: str, *operators: str) -> Node | None:
        """The node that makes the value, if it is one of these ONNX operators."""
        node = self.producers.get(value)
        return node if node is not None and not node.domain and node.op in operators else None

    def with_scalar(self, node: Node, number: float) -> str | None:
        """The other input of a binary node, one of whose inputs is this number (Sub and Div: the second)."""
        first, second = node.inputs
        if same_scalar(self.graph.scalar(second), number):
            return first
        if node.op in ("Add", "Mul") and same_scalar(self.graph.scalar(first), number):
            return second
        return None

    def scaled(self, value: str) -> tuple[str, float]:
        """Take multiplications and divisions by numbers off a value: what is left, and their product."""
        factor = 1.0
        while (node := self.made_by(value, "Mul", "Div")) is not None:
            first, second = node.inputs
            number = self.graph.scalar(second)
            if number is not None:
                value, factor = first, factor * (number if node.op == "Mul" else 1 / number)
                continue
            number = self.graph.scalar(first)
            if number is None or node.op == "Div":
                break
            value, factor = second, factor * number
        return value, factor


def fuse_layer_norm(graph: Graph) -> None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * weight + bias`` becomes ``LayerNorm``."""
    pattern = Pattern(graph)
    for node in graph.nodes:
        if node.op != "Add" or node.domain:
            continue
        for product, bias in (node.inputs, node.inputs[::-1]):
            found = _normalised(pattern, product)
            shift = graph.weights.get(bias)
            if found is not None and shift is not None and len(shift.shape) == 1:
                source, weight, epsilon = found
                node.inputs = [source]
                make_layer_norm(node, [weight, shift.name], size=shift.shape[0], epsilon=epsilon)
                break


def _normalised(pattern: Pattern, value: str) -> tuple[str, str, float] | None:
    """Source, weight's name and epsilon of a scaled normalisation."""
    product = pattern.made_by(value, "Mul")
    if product is None:
        return None
    for quotient, scale in (product.inputs, product.inputs[::-1]):
        weight = pattern.graph.weights.get(scale)
        divide = pattern.made_by(quotient, "Div")
        if weight is None or divide is None or len(weight.shape) != 1:
            continue
        centred, root = divide.inputs
        source = _centred(pattern, centred)
        square_root = pattern.made_by(root, "Sqrt")
        add = pattern.made_by(square_root.inputs[0], "Add") if square_root is not None else None
        if source is None or add is None:
            continue
        for variance, small in (add.inputs, add.inputs[::-1]):
            epsilon = pattern.graph.scalar(small)
            mean = pattern.made_by(variance, "ReduceMean")
            if epsilon is not None and mean is not None and _squared(pattern, mean.inputs[0], source):
                return source, weight.name, epsilon
    return None


def _centred(pattern: Pattern, value: str) -> str | None:
    node = pattern.made_by(value, "Sub")
    mean = pattern.made_by(node.inputs[1], "ReduceMean") if node is not None else None
    return node.inputs[0] if node is not None and mean is not None and mean.inputs[0] == node.inputs[0] else None


def _squared(pattern: Pattern, value: str, source: str) -> bool:
    node = pattern.made_by(value, "Pow", "Mul")
    if node is None or _centred(pattern, node.inputs[0]) != source:
        return False
    if node.op == "Pow":
        return same_scalar(pattern.graph.scalar(node.inputs[1]), 2)
    return _centred(pattern, node.inputs[1]) == source


def fuse_gelu(graph: Graph) -> None:
    """``x / 2 * (1 + erf(x / sqrt(2)))`` and its tanh approximation become ``Gelu``."""
    pattern = Pattern(graph)
    for node in graph.nodes:
        if node.op != "Mul" or node.domain:
            continue
        found = _gelu(pattern, node)
        if found is not None:
            source, approximate = found
            node.op, node.domain, node.inputs, node.attributes = "Gelu", DOMAIN, [source], {"approximate": approximate}


def _gelu(pattern: Pattern, node: Node) -> tuple[str, str] | None:
    """Source and kind. The factor 1/2 may stand at the product, at x, or at the bracket."""
    whole, half = pattern.scaled(node.outputs[0])
    product = pattern.made_by(whole, "Mul")
    if product is None or any(pattern.graph.scalar(value) is not None for value in product.inputs):
        return None
    for left, right in (product.inputs, product.inputs[::-1]):
        source, before = pattern.scaled(left)
        bracket, behind = pattern.scaled(right)
        add = pattern.made_by(bracket, "Add")
        if add is None or not same_scalar(half * before * behind, 0.5):
            continue
        inner = pattern.with_scalar(add, 1)
        curve = pattern.made_by(inner, "Erf", "Tanh") if inner is not None else None
        if curve is None:
            continue
        argument, factor = pattern.scaled(curve.inputs[0])
        if curve.op == "Erf" and argument == source and same_scalar(factor, math.sqrt(0.5)):
            return source, "none"
        if curve.op == "Tanh" and same_scalar(factor, _SQRT_2_OVER_PI) and _with_cube(pattern, argument, source):
            return source, "tanh"
    return None


def _with_cube(pattern: Pattern, value: str, source: str) -> bool:
    """Whether the value is ``x + 0.044715 x^3``."""
    add = pattern.made_by(value, "Add")
    if add is None or source not in add.inputs:
        return False
    cube, factor = pattern.scaled(next(entry for entry in add.inputs if entry != source))
    power = pattern.made_by(cube, "Pow")
    if not same_scalar(factor, _CUBIC) or power is None:
        return False
    return power.inputs[0] == source and same_scalar(pattern.graph.scalar(power.inputs[1]), 3)
