"""An ONNX file as a trainable PyTorch module: every weight a parameter under its state-dict name.

    ONNX file --rewrite--> graph of native nodes --onnx2torch--> fx graph --assemble--> modules nested as the names say

What is taken is said in ``ts4s_core.onnx.rewriting.rewrite``.
Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import fx, nn

from ts4s_core.errors import Ts4sError, UnsupportedModelError, listed
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import Array, Graph
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.parity import takes_other_shapes
from ts4s_core.onnx.importing.registered_converters import onnx2torch
from ts4s_core.onnx.rewriting.dropout_sites import add_dropout
from ts4s_core.onnx.rewriting.rewrite import rewrite
from ts4s_core.torch_internals import container_at

OPERATIONS = "_ops"


@graph_failures("Import of the graph")
def import_graph(onnx_path: Path, names: Mapping[str, Any] | None) -> ImportedGraph:
    """An ONNX file as a module, with its weights and without dropout.

    Args:
        onnx_path: the file.
        names: the content of ``names.json``, or None for a file made elsewhere.

    Raises:
        SourceError: the file cannot be read, or does not fit its names.
        UnsupportedModelError: naming an opset, an input, or a node and its operator, that is not taken; or what one of the
            libraries raised.
    """
    rewritten = rewrite(onnx_path, names)
    module = assemble(rewritten.graph)
    put_tensors(module, rewritten.tensors)
    if rewritten.fixed is not None:
        module.fixed = None if takes_other_shapes(module, rewritten.fixed) else rewritten.fixed
    return module


def assemble(
    graph: Graph, *, dropout: float = 0.0, attention_dropout: float = 0.0, into: ImportedGraph | None = None
) -> ImportedGraph:
    """Turn a rewritten graph into modules. Their weights have no memory (device meta) until :func:`put_tensors`.

    Args:
        graph: stays as it is.
        dropout: probability at the hidden sites.
        attention_dropout: probability on the attention weights.
        into: an empty module to put everything in (of a subclass).

    Raises:
        UnsupportedModelError: naming the first node that no converter takes.
    """
    graph = copy.deepcopy(graph)
    add_dropout(graph, hidden=dropout, attention=attention_dropout)
    library = onnx2torch()
    _refuse_unknown(graph)
    for index, node in enumerate(graph.nodes):
        node.name = f"n{index:04d}_{node.op}"
    try:
        converted = library.convert(graph.to_model(), save_input_names=True)
    except Ts4sError:
        raise
    except Exception as exc:
        raise UnsupportedModelError(
            f"Import of the graph: expected operators in forms that onnx2torch takes, got {type(exc).__name__}: {exc}. "
            "Export the model again with ts4s export"
        ) from exc
    root = into if into is not None else ImportedGraph()
    root.graph_inputs = tuple(graph.inputs)
    root.float_inputs = frozenset(name for name in graph.inputs if graph.dtypes.get(name) == TensorProto.FLOAT)
    _place(root, converted)
    root.operations = converted.graph
    root._run = type(fx.GraphModule(root, converted.graph)).forward
    return root


def put_tensors(module: nn.Module, tensors: Mapping[str, Array | torch.Tensor]) -> None:
    """Put new parameters with these values, on the CPU, in the place of those of these names; what was tied stays tied."""
    named = dict(module.named_parameters())
    names = {id(parameter): name for name, parameter in named.items() if name in tensors}
    made: dict[str, nn.Parameter] = {}
    for owner in module.modules():
        for local, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            name = names.get(id(parameter))
            if name is not None:
                if name not in made:
                    made[name] = nn.Parameter(_tensor(tensors[name]), requires_grad=parameter.requires_grad)
                setattr(owner, local, made[name])


def _tensor(value: Array | torch.Tensor) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.require(value, requirements=["C", "W"]))


def _place(root: nn.Module, converted: fx.GraphModule) -> None:
    """Move the converted modules to where their weights' names say, and let the fx graph call them there.

    A module whose weights have one parent, e.g. ``a.b.weight`` and ``a.b.bias``, becomes ``a.b``; two calls with the same
    weights are calls of one module. All others go into ``_ops`` and share their parameters with the named place.
    """
    parameters: dict[str, nn.Parameter] = {}
    placed: dict[str, nn.Module] = {}
    others: dict[str, Any] = {}
    for node in converted.graph.nodes:
        if node.op == "call_module":
            module = converted.get_submodule(node.target)
            for local, name in getattr(module, "parameter_names", {}).items():
                module.register_parameter(local, parameters.setdefault(name, module.get_parameter(local)))
            node.target = _path(module, placed, others)
        elif node.op == "get_attr":
            name = f"{OPERATIONS}.constants.{node.target.rpartition('.')[2]}"
            others[name] = converted.get_buffer(node.target)
            node.target = name
    for path, module in placed.items():
        container_at(root, path.rpartition(".")[0]).add_module(path.rpartition(".")[2], module)
    held = {id(parameter) for parameter in root.parameters()}
    for name, parameter in parameters.items():
        if id(parameter) not in held:
            container_at(root, name.rpartition(".")[0]).register_parameter(name.rpartition(".")[2], parameter)
    for path, value in others.items():
        container = container_at(root, path.rpartition(".")[0])
        if isinstance(value, nn.Module):
            container.add_module(path.rpartition(".")[2], value)
        else:
            container.register_buffer(path.rpartition(".")[2], value, persistent=False)
    found = [name for name, _parameter in root.named_parameters()]
    if set(found) != set(parameters):
        raise UnsupportedModelError(
            f"Import of the graph: expected each weight once under its own name, got a clash at "
            f"{listed(sorted(set(found) ^ set(parameters)))}. Export the model again with ts4s export"
        )


def _path(module: nn.Module, placed: dict[str, nn.Module], others: dict[str, Any]) -> str:
    """Where a module goes; it is noted there."""
    names: dict[str, str] = getattr(module, "parameter_names", {})
    parents = {name.rpartition(".")[0] for name in names.values()}
    path = next(iter(parents)) if len(parents) == 1 else ""
    if path and all(name == f"{path}.{local}" for local, name in names.items()):
        there = placed.setdefault(path, module)
        if there is module or there.identity == module.identity:
            return path
    path = f"{OPERATIONS}.op{len(others):04d}"
    others[path] = module
    return path


def _refuse_unknown(graph: Graph) -> None:
    from onnx2torch.node_converters.registry import get_converter

    for node in graph.nodes:
        version = graph.opset if not node.domain else 1
        try:
            get_converter(node.op, version, node.domain)
        except NotImplementedError as exc:
            raise UnsupportedModelError(
                f"Import of {node.label} at opset {graph.opset}: expected one with a converter, got one without. "
                "Export the model again with ts4s export, which uses opset 23"
            ) from exc
