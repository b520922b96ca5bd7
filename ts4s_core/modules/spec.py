"""How a module is made, as JSON: by a call of an import path with keyword arguments, by its state, or from a graph.

    {"factory": "my_package.networks:Net", "arguments": {"hidden": 32}}
    {"factory": "torch.nn:Sequential", "children": {"0": {"factory": "torch.nn:Linear", "arguments": {...}}, ...}}
    {"factory": "my_package.networks:Net", "objects": [...], "tensors": {...}}      see :mod:`ts4s_core.modules.state`
    {"program": {...}, "tensors": {...}}                  its graph, see :mod:`ts4s_core.modules.programs.program`
    {"onnx": true}                                        the graph is in a file of its own

A module that is given as an object is described by its state. Containers with ``children`` are what earlier versions saved.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.models.weights import Array
from ts4s_core.modules.programs.program import Program
from ts4s_core.modules.state import paths_of_state, restored, state_of
from ts4s_core.modules.trust import find, import_path

Spec = dict[str, Any]


def spec_of_call(factory: object, arguments: dict[str, Any] | None) -> Spec:
    """The description of ``factory(**arguments)``.

    Args:
        factory: ``module:name``, or the class or function itself.
        arguments: JSON values.

    Raises:
        UnsupportedModelError: if the factory is no class or function, or an argument is no JSON.
    """
    path = factory if isinstance(factory, str) else import_path(factory)
    given = dict(arguments or {})
    try:
        if json.loads(json.dumps(given, allow_nan=False)) != _listed(given):
            raise ValueError("values that JSON changes")
    except (TypeError, ValueError) as exc:
        raise UnsupportedModelError(
            f"Arguments of {path} cannot be kept: expected numbers, texts, lists and maps, got {exc}. Give plain values"
        ) from exc
    return {"factory": path, "arguments": _listed(given)}


def paths_of(spec: Spec) -> Iterator[str]:
    """Every import path that a description names.

    Raises:
        InputError: if it does not describe a module.
    """
    children = spec.get("children", {}) if isinstance(spec, dict) else None
    if not isinstance(children, dict):
        raise InputError(f"{_shown(spec)} describes no module: expected a factory with arguments or children")
    if "objects" in spec:
        yield from paths_of_state(spec)
    elif "factory" in spec:
        yield str(spec["factory"])
    for child in children.values():
        yield from paths_of(child)


def describe(module: nn.Module) -> tuple[Spec, dict[str, Array]]:
    """The description of an object, without its weights, and its constants.

    Raises:
        UnsupportedModelError: naming what cannot be described.
    """
    spec, constants = state_of(module)
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return ({**spec, "frozen": frozen} if frozen else spec), constants


def build(spec: Spec, *, seed: int = 0, constants: Mapping[str, Array] | None = None) -> nn.Module:
    """Build a module anew; its random weights depend on the seed alone, and are zero if it is described by its state.

    Raises:
        InputError: if the factory cannot be imported, refuses its arguments, or gives no module.
    """
    random_states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        module = _of_spec(spec, constants or {})
    finally:
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])
        torch.random.set_rng_state(random_states[2])
    frozen = set(spec.get("frozen", ()))
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return module


def _of_spec(spec: Spec, constants: Mapping[str, Array]) -> nn.Module:
    if "program" in spec:
        return Program(spec, constants)
    return restored(spec, constants) if "objects" in spec else _built(spec)


def _built(spec: Spec) -> nn.Module:
    factory = find(str(spec["factory"]))
    if "children" in spec:
        children = {name: _built(child) for name, child in spec["children"].items()}
        container: nn.Module = factory()
        for name, child in children.items():
            container.add_module(name, child)
        return container
    try:
        module = factory(**spec.get("arguments", {}))
    except TypeError as exc:
        raise InputError(f"{spec['factory']} cannot be built: {exc}. Give its keyword arguments in moduleArgs") from exc
    if not isinstance(module, nn.Module):
        raise InputError(f"{spec['factory']} made a {type(module).__name__}: expected a torch.nn.Module")
    return module


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON gives back."""
    if isinstance(value, dict):
        return {name: _listed(entry) for name, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value
