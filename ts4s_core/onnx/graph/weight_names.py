"""Which ONNX initializer holds which parameter.

The exporter names a weight after the state dict where it stores it as it is, invents a name (``val_12``) where it stores
the transposed matrix, and merges tensors of equal value. So the graph is traced with weights that are all different
(:func:`distinct_weights`), every initializer is recognised by its value, and the true weights are put in afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import UnsupportedModelError, listed

if TYPE_CHECKING:
    import onnx_ir

TAG_SEED = 20_261_121


@dataclass(frozen=True)
class NameMap:
    """Where each parameter of a module is found in its graph.

    Attributes:
        parameters: state-dict name to ``(initializer, transposed)``; tied names are all in it.
        tied: alias to the first name of the same parameter.
        unused: parameters that the output does not depend on (they are in no initializer).
    """

    parameters: dict[str, tuple[str, bool]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The map as the part of ``names.json`` that it is."""
        return {
            "parameters": {
                name: {"initializer": initializer, "transposed": transposed}
                for name, (initializer, transposed) in self.parameters.items()
            },
            "tied": dict(self.tied),
            "unused": list(self.unused),
        }


@contextlib.contextmanager
def distinct_weights(module: nn.Module) -> Iterator[None]:
    """Give every parameter random values of its own while the context lasts; ties stay tied."""
    true_values = [(parameter, parameter.data) for parameter in module.parameters()]
    generator = torch.Generator().manual_seed(TAG_SEED)
    try:
        for parameter, value in true_values:
            parameter.data = torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5
        yield
    finally:
        for parameter, value in true_values:
            parameter.data = value


def names_of_parameters(module: nn.Module) -> dict[str, list[str]]:
    """First state-dict name of every parameter to all its names (more than one where weights are tied)."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return names


def map_initializers(graph: onnx_ir.Graph, module: nn.Module) -> NameMap:
    """Recognise every parameter among the initializers and name those after it; equal initializers become one.

    To be called inside :func:`distinct_weights`. An initializer that holds a transposed matrix is named
    ``<parameter>.transposed``.

    Raises:
        UnsupportedModelError: naming a parameter that the output depends on and that no initializer holds.
    """
    held = _by_value(graph)
    parameters: dict[str, tuple[str, bool]] = {}
    tied: dict[str, str] = {}
    missing = []
    for first, names in names_of_parameters(module).items():
        forms = _forms(graph, held, name=first, value=module.get_parameter(first).detach().numpy())
        if not forms:
            missing.append(first)
            continue
        for name in names:
            transposed = _is_linear(module, name) if len(forms) == 2 else next(iter(forms))
            parameters[name] = (forms[transposed], transposed)
            if name != first:
                tied[name] = first
        if len({parameters[name] for name in names}) < len(forms):
            raise UnsupportedModelError(
                f"Parameter {first} cannot be mapped: expected one initializer a name, got it twice in the graph "
                f"({listed(forms.values())}) for {listed(names)}. This architecture is not taken"
            )
    order = [name for name, _ in module.named_parameters(remove_duplicate=False) if name in parameters]
    return NameMap({name: parameters[name] for name in order}, tied, tuple(missing))


def refuse_folded(module: nn.Module, output: torch.Tensor, unused: tuple[str, ...]) -> None:
    """Check that parameters which no initializer holds have no say in the output.

    Raises:
        UnsupportedModelError: naming those that have.
    """
    if not unused:
        return
    parameters = [module.get_parameter(name) for name in unused]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    folded = [name for name, gradient in zip(unused, gradients, strict=True) if gradient is not None]
    if folded:
        raise UnsupportedModelError(
            f"Weights {listed(folded)} were not found in the exported graph: the exporter folded them into something else, "
            "so that they could not be trained. This architecture is not taken"
        )


def restore_weights(graph: onnx_ir.Graph, module: nn.Module, names: NameMap) -> None:
    """Put the module's weights into the initializers that hold them."""
    import onnx_ir

    for name, (initializer, transposed) in names.parameters.items():
        value = module.get_parameter(name).detach().numpy()
        tensor = np.ascontiguousarray(value.T if transposed else value)
        graph.initializers[initializer].const_value = onnx_ir.tensor(tensor, name=initializer)


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Linear)


def _digest(value: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], bytes]:
    return tuple(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).digest()


def _by_value(graph: onnx_ir.Graph) -> dict[tuple[tuple[int, ...], bytes], list[onnx_ir.Value]]:
    held: dict[tuple[tuple[int, ...], bytes], list[onnx_ir.Value]] = {}
    for value in graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else None
        if array is not None and array.dtype == np.float32:
            held.setdefault(_digest(array), []).append(value)
    return held


def _forms(
    graph: onnx_ir.Graph,
    held: dict[tuple[tuple[int, ...], bytes], list[onnx_ir.Value]],
    *,
    name: str,
    value: np.ndarray[Any, Any],
) -> dict[bool, str]:
    """``{transposed: initializer}`` of one parameter, after merging and naming its initializers."""
    import onnx_ir

    forms: dict[bool, str] = {}
    for transposed in (False, True) if value.ndim == 2 else (False,):
        found = held.get(_digest(value.T if transposed else value), [])
        if not found:
            continue
        kept, *copies = found
        for copy in copies:
            onnx_ir.convenience.replace_all_uses_with(copy, kept)
            del graph.initializers[copy.name or ""]
        forms[transposed] = f"{name}.transposed" if transposed else name
        graph.initializers.pop(kept.name or "")
        kept.name = forms[transposed]
        graph.initializers[forms[transposed]] = kept
    return forms
