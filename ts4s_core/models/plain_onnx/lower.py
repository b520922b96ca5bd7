"""A rewritten graph in ONNX's own operators again, with its head: what any ONNX runtime runs.

    graph.onnx (nodes of domain ts4s) + model.json --lower--> nodes of the default domain + which weight each needs

Weights are not held here: an initializer is named and its recipe kept, so that a file can be written with them in it, or
a session can map them from where they are. Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``C`` classes.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
from onnx import TensorProto, helper

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.plain_onnx.builder import GraphBuilder, Lowered
from ts4s_core.models.spec import HEAD, ModelSpec
from ts4s_core.onnx.graph.graph import DOMAIN, Dim, Graph, Node
from ts4s_core.task_kinds.kind import load

#: What a lowered graph gives out: the model's logits, or one vector a text.
Output = Literal["logits", "mean", "first"]
OUTPUT_NAMES = {"logits": "logits", "mean": "embedding", "first": "embedding"}
#: Operators that the rewrite renamed without changing what they mean.
_RENAMED = {"DynamicReshape": "Reshape", "Slice": "Slice", "CumSum": "CumSum", "Flatten": "Flatten"}
_OWN = "ts4s/own"
_EPSILON = 1e-9
#: What a lowered graph takes at most, ``(B, T)`` int64 each.
INPUTS = ("input_ids", "attention_mask")


def lower(graph: Graph, spec: ModelSpec, *, output: Output = "logits") -> Lowered:
    """Turn every node of domain ``ts4s`` into standard ones, and put the head behind.

    Args:
        graph: of a ``model`` or ``trained`` artifact; stays as it is.
        spec: its ``model.json``.
        output: the logits; or the mean of the tokens' states, or the first token's.

    Raises:
        UnsupportedModelError: naming a node that has no standard form.
    """
    graph = _apart(graph, OUTPUT_NAMES[output])
    work = _Lowering(graph)
    for name in list(graph.inputs):
        if name in INPUTS:
            work.cast_input(name)
        else:
            work.fold_input(name)
    for node in graph.nodes:
        work.lower(node)
    hidden = graph.output
    head_nodes = spec.kind.head_nodes
    if output == "logits" and head_nodes is not None:
        load(head_nodes)(work, hidden)
        shape: tuple[Dim, ...] = (spec.classes,)
    elif output == "logits":
        work.emit("Identity", [hidden], output="logits")
        shape = ("sequence", spec.hidden_size)
    else:
        work.pool(hidden, output)
        shape = (spec.hidden_size,)
    result = work.result
    result.output = OUTPUT_NAMES[output]
    result.output_shape = (result.shapes["input_ids"][0] if spec.fixed_shape else "batch", *shape)
    return result


def _apart(graph: Graph, name: str) -> Graph:
    """The graph, a value of its own renamed where it is called what the output will be, and inputs of other types than int64."""
    cast = [
        given for given in graph.inputs if graph.dtypes.get(given, TensorProto.INT64) != TensorProto.INT64 and given in INPUTS
    ]
    clash = graph.output == name or any(name in node.outputs for node in graph.nodes)
    if not clash and not cast:
        return graph
    graph = copy.deepcopy(graph)
    if clash:
        for node in graph.nodes:
            node.outputs = [_OWN if value == name else value for value in node.outputs]
        graph.redirect(name, _OWN)
    for given in cast:
        graph.redirect(given, _cast(given))
    return graph


def _cast(name: str) -> str:
    return f"ts4s/{name}"


def classification_head(work: GraphBuilder, hidden: str) -> None:
    """:class:`ts4s_core.models.heads.ClassificationHead`: ``(B, T, H)`` to ``logits`` ``(B, C)``."""
    first = work.emit("Gather", [hidden, work.constant(0)], axis=1)
    names = {f"{layer}.{kind}": f"{HEAD}.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")}
    dense = work.emit("Gemm", [first, work.weight(names["dense.weight"]), work.weight(names["dense.bias"])], transB=1)
    pooled = work.emit("Tanh", [dense])
    last = [pooled, work.weight(names["out_proj.weight"]), work.weight(names["out_proj.bias"])]
    work.emit("Gemm", last, output="logits", transB=1)


class _Lowering(GraphBuilder):
    """Writes the nodes of one graph."""

    def lower(self, node: Node) -> None:
        if not node.domain:
            made = helper.make_node(node.op, node.inputs, node.outputs, name=node.name, **node.attributes)
            self.result.nodes.append(made)
            return
        if node.domain == DOMAIN and node.op in _RENAMED:
            made = helper.make_node(_RENAMED[node.op], node.inputs, node.outputs, name=node.name, **node.attributes)
            self.result.nodes.append(made)
            return
        write = getattr(self, f"_{_snake(node.op)}", None) if node.domain == DOMAIN else None
        if write is None:
            raise UnsupportedModelError(
                f"Export of {node.label}: expected an operator with a standard ONNX form, got one without. "
                "Use --format hf or torch"
            )
        write(node)

    def fold_input(self, name: str) -> None:
        """Make an input that follows from the tokens out of them: token types are zeros, positions count from 0."""
        dtype = self.result.dtypes[name]
        self.result.inputs.remove(name)
        shape = self.emit("Shape", ["input_ids"])
        made = self.emit("ConstantOfShape", [shape], value=helper.make_tensor("value", TensorProto.INT64, [1], [0]))
        if name == "position_ids":
            made = self.emit("Add", [made, self.emit("Range", [self.constant(0), self.length(), self.constant(1)])])
        self.emit("Cast", [made], output=name, to=dtype)

    def cast_input(self, name: str) -> None:
        """Take an input as int64, and hand it on as the type that the graph reads."""
        if self.result.dtypes[name] != TensorProto.INT64:
            self.emit("Cast", [name], output=_cast(name), to=self.result.dtypes[name])
            self.result.dtypes[name] = TensorProto.INT64

    def pool(self, hidden: str, how: Output) -> None:
        """``(B, T, H)`` to ``embedding`` ``(B, H)``."""
        if how == "first":
            self.emit("Gather", [hidden, self.constant(0)], output="embedding", axis=1)
            return
        if "attention_mask" not in self.result.inputs:
            raise UnsupportedModelError("Mean of the tokens: expected a graph with an attention_mask, got none. Use first")
        mask = self.emit("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        # (B, 1, T) x (B, T, H): the sum over the real tokens, without a masked copy of the states
        total = self.squeeze(self.emit("MatMul", [self.unsqueeze(mask, [1]), hidden]), [1])
        count = self.reduce("ReduceSum", mask, [1])
        at_least = self.emit("Max", [count, self.constant(_EPSILON, np.float32)])
        self.emit("Div", [total, at_least], output="embedding")

    def _linear(self, node: Node) -> None:
        weight = self.weight(node.attributes["weight"], transposed=not node.attributes["in_out"])
        if "bias" not in node.attributes:
            self.emit("MatMul", [node.inputs[0], weight], output=node.outputs[0])
            return
        product = self.emit("MatMul", [node.inputs[0], weight])
        self.emit("Add", [product, self.weight(node.attributes["bias"])], output=node.outputs[0])

    def _embedding(self, node: Node) -> None:
        self.emit("Gather", [self.weight(node.attributes["weight"]), node.inputs[0]], output=node.outputs[0], axis=0)

    def _layer_norm(self, node: Node) -> None:
        data, weight = node.inputs[0], self.weight(node.attributes["weight"])
        bias = [self.weight(node.attributes["bias"])] if "bias" in node.attributes else []
        epsilon = float(node.attributes["epsilon"])
        if self.opset >= 17:
            self.emit("LayerNormalization", [data, weight, *bias], output=node.outputs[0], axis=-1, epsilon=epsilon)
            return
        centred = self.emit("Sub", [data, self.reduce("ReduceMean", data, [-1])])
        variance = self.reduce("ReduceMean", self.emit("Mul", [centred, centred]), [-1])
        root = self.emit("Sqrt", [self.emit("Add", [variance, self.constant(epsilon, np.float32)])])
        scaled = self.emit("Mul", [self.emit("Div", [centred, root]), weight], output="" if bias else node.outputs[0])
        if bias:
            self.emit("Add", [scaled, *bias], output=node.outputs[0])

    def _weight(self, node: Node) -> None:
        name = self.weight(node.attributes["weight"], transposed=bool(node.attributes.get("transposed", 0)))
        self.emit("Identity", [name], output=node.outputs[0])

    def _reshape(self, node: Node) -> None:
        data, wanted = node.inputs[0], list(node.attributes["shape"])
        if all(size >= -1 or -2 - size == axis for axis, size in enumerate(wanted)) and 0 not in wanted:
            shape = self.constant([0 if size < -1 else size for size in wanted])
        else:
            pieces = [self.constant([size]) if size >= -1 else self.size(data, -2 - size) for size in wanted]
            shape = self.emit("Concat", pieces, axis=0)
        self.emit("Reshape", [data, shape], output=node.outputs[0])

    def _attention(self, node: Node) -> None:
        from ts4s_core.models.plain_onnx.lower_attention import lower_attention

        lower_attention(self, node)

    def _gelu(self, node: Node) -> None:
        data, approximate = node.inputs[0], str(node.attributes["approximate"])
        if self.opset >= 20:
            self.emit("Gelu", [data], output=node.outputs[0], approximate=approximate)
            return

        def number(value: float) -> str:
            return self.constant(value, np.float32)

        if approximate == "tanh":
            cube = self.emit("Mul", [self.emit("Mul", [data, data]), data])
            inner = self.emit("Add", [data, self.emit("Mul", [cube, number(0.044715)])])
            curve = self.emit("Tanh", [self.emit("Mul", [inner, number(np.sqrt(2 / np.pi))])])
        else:
            curve = self.emit("Erf", [self.emit("Div", [data, number(np.sqrt(2.0))])])
        bracket = self.emit("Add", [curve, number(1.0)])
        self.emit("Mul", [self.emit("Mul", [data, bracket]), number(0.5)], output=node.outputs[0])

    def _key_mask(self, node: Node) -> None:
        allowed = self.unsqueeze(self.emit("Cast", [node.inputs[0]], to=TensorProto.BOOL), [1, 2])
        if not node.attributes["causal"]:
            self.emit("Identity", [allowed], output=node.outputs[0])
            return
        self.emit("And", [allowed, self.past_once()], output=node.outputs[0])

    def _float_cast(self, node: Node) -> None:
        self.emit("Cast", [node.inputs[0]], output=node.outputs[0], to=TensorProto.FLOAT)

    def _slice_to(self, node: Node) -> None:
        ends = self.size("input_ids", 1)
        axes = self.constant([int(node.attributes["axis"])])
        self.emit("Slice", [node.inputs[0], self.constant([0]), ends, axes], output=node.outputs[0])

    def _token_indices(self, node: Node) -> None:
        first = int(node.attributes["offset"])
        if node.attributes["counting"]:
            end = self.emit("Add", [self.length(), self.constant(first)])
            row = self.emit("Range", [self.constant(first), end, self.constant(1)])
            made = self.unsqueeze(row, [0])
            self.emit("Identity", [made], output=node.outputs[0])
            return
        shape = self.emit("Concat", [self.constant([1]), self.size("input_ids", 1)], axis=0)
        value = helper.make_tensor("value", TensorProto.INT64, [1], [first])
        self.emit("ConstantOfShape", [shape], output=node.outputs[0], value=value)


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")
