"""Reading of ONNX's protobuf messages, without the library itself, which checks before a run do not import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def plain_domain(name: str) -> str:
    """A domain's name; ONNX's own, which has two, is empty."""
    return "" if name == "ai.onnx" else name


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; 0 if the model names none."""
    return next((entry.version for entry in model.opset_import if not plain_domain(entry.domain)), 0)


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from graphs_in(inner)
