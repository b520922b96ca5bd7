"""Adding a converter to onnx2torch's registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import nn

#: Makes the module of a node from its attributes (and the node, where outputs count).
Make = Callable[[Any], nn.Module]


def register(operator: str, *, versions: tuple[int, ...], domain: str = "") -> Callable[[Make], Make]:
    """Register ``make(node) -> module`` for these versions; the module is called with the node's inputs."""

    def decorate(make: Make) -> Make:
        def convert(node: Any, graph: Any) -> Any:
            mapping = OnnxMapping(inputs=node.input_values, outputs=node.output_values)
            return OperationConverterResult(torch_module=make(node), onnx_mapping=mapping)

        for version in versions:
            add_converter(operation_type=operator, version=version, domain=domain)(convert)
        return make

    return decorate
