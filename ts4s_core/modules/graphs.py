"""An ONNX file of any kind as a module whose weights can be trained."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from ts4s_core.errors import Ts4sError, UnsupportedModelError
from ts4s_core.onnx.importing.registered_converters import onnx2torch
from ts4s_core.torch_internals import NormalisingLayer, buffers_of

_TEXT_INPUT = "input_ids"


def module_of_onnx(data: bytes, *, folder: Path) -> nn.Module:
    """The module of a graph: one with an input ``input_ids`` as a text encoder, any other by its operators.

    Args:
        data: the file's bytes, weights included.
        folder: for a copy of it while it is read.

    Raises:
        UnsupportedModelError: naming what is not taken.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as exc:  # protobuf's own classes
        raise UnsupportedModelError(f"ONNX graph cannot be read: {type(exc).__name__}: {exc}") from exc
    if any(entry.name == _TEXT_INPUT for entry in model.graph.input):
        from ts4s_core.onnx.importing.importer import import_graph

        path = folder / "graph.onnx"
        path.write_bytes(data)
        return import_graph(path, None)
    return _by_operators(model)


def _by_operators(model: onnx.ModelProto) -> nn.Module:
    try:
        module: nn.Module = onnx2torch().convert(model)
    except Ts4sError:
        raise
    except Exception as exc:
        raise UnsupportedModelError(
            f"ONNX graph: expected operators that onnx2torch takes, got {type(exc).__name__}: {exc}. "
            "Export it with torch.onnx.export at opset 18, or give the module's import path"
        ) from exc
    _free_weights(module)
    return module


def _free_weights(module: nn.Module) -> None:
    """Make parameters of the matrices that the converter holds as constants; a single number is one that stays."""
    for child in module.modules():
        normalises = isinstance(child, NormalisingLayer)
        for name, buffer in list(child.named_buffers(recurse=False)):
            if buffer.is_floating_point() and buffer.numel() > 1 and not normalises:
                del buffers_of(child)[name]
                child.register_parameter(name, nn.Parameter(buffer.detach().clone().to(torch.float32)))
