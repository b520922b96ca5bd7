"""Checks beyond those of ONNX's own checker: graphs that would crash or hang the process that reads or runs them."""

from __future__ import annotations

import onnx

from ts4s_core.errors import listed
from ts4s_core.onnx.graph.protos import graphs_in, plain_domain


def refuse_absent_dimensions(graph: onnx.GraphProto) -> None:
    """ONNX Runtime asks for memory without end where a shape is made of dimensions that a value does not have.

    Raises:
        ValueError: naming the node.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    for node in graph.node:
        starts = [attribute.i for attribute in node.attribute if attribute.name == "start"]
        if node.op_type == "Shape" and starts and starts[0] >= ranks.get(node.input[0], starts[0] + 1):
            raise ValueError(
                f"node {node.name} that reads dimension {starts[0]} of {node.input[0]}, which has {ranks[node.input[0]]}"
            )


def refuse_disorder(graph: onnx.GraphProto) -> None:
    """On a graph with a circle the search for patterns would have no end.

    Raises:
        ValueError: naming the node.
    """
    known = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        early = [name for name in node.input if name not in known]
        again = [name for name in node.output if name and name in known]
        if early or again:
            problem = f"read before they are made: {listed(early)}" if early else f"made twice: {listed(again)}"
            raise ValueError(f"values of node {node.name or node.op_type} that are {problem}")
        known.update(node.output)


def refuse_absent_inputs(model: onnx.ModelProto) -> None:
    """ONNX Runtime ends the process where an input without a name stands for one that the operator cannot do without.

    Raises:
        ValueError: naming the node.
    """
    opsets = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    for node in (node for graph in graphs_in(model.graph) for node in graph.node):
        if "" in node.input and not _may_be_absent(node, opsets.get(plain_domain(node.domain), 0)):
            raise ValueError(f"node {node.name or node.op_type} without one of the inputs that its operator {node.op_type} needs")


def _may_be_absent(node: onnx.NodeProto, opset: int) -> bool:
    """Whether all inputs without a name are optional ones of the operator; yes for operators that ONNX does not define."""
    try:
        formal = onnx.defs.get_schema(node.op_type, opset, plain_domain(node.domain)).inputs
    except onnx.defs.SchemaError:
        return True
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return all(place < len(formal) and formal[place].option == optional for place, name in enumerate(node.input) if not name)
