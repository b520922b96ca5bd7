"""How a module is built, as JSON: from an import path with keyword arguments, or as a container of such.

    {"factory": "my_package.networks:Net", "arguments": {"hidden": 32}}
    {"factory": "torch.nn:Sequential", "children": {"0": {"factory": "torch.nn:Linear", "arguments": {...}}, ...}}
    {"onnx": true}                                        the graph is in a file of its own

A module that is given as an object is described so: its constructor's arguments are read from the attributes of the same
names, the description is built, and the result is compared with the object, attribute by attribute. What does not come out
the same is refused: a guess would be another model.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
import weakref
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.modules.trust import find, trust
from ts4s_core.torch_internals import buffers_of, children_of, parameters_of

Spec = dict[str, Any]

_CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OWN = frozenset(nn.Module().__dict__)
_HOOKS = tuple(name for name in _OWN if name.endswith(("_hooks", "_hooks_always_called")))
_PLAIN = (bool, int, float, str, type(None))


def spec_of_call(factory: object, arguments: dict[str, Any] | None) -> Spec:
    """The description of ``factory(**arguments)``.

    Args:
        factory: ``module:name``, or the class or function itself.
        arguments: JSON values.

    Raises:
        UnsupportedModelError: if the factory cannot be imported by name, or an argument is no JSON.
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


def import_path(thing: object) -> str:
    """``module:name`` of a class or function; that of a script is the script's own name.

    What this process holds it has imported already, so it is trusted from now on.

    Raises:
        UnsupportedModelError: if it cannot be imported by that name.
    """
    name, module = getattr(thing, "__qualname__", ""), getattr(thing, "__module__", "")
    if module == "__main__":
        module = _script() or module
    public = "torch.nn" if module.startswith("torch.nn.modules") and hasattr(nn, name) else module
    if not name or "<" in name or public == "__main__":
        raise UnsupportedModelError(
            f"{name or thing!r} cannot be imported by name: expected a class or function in a module, got one of "
            f"{'a function body' if '<' in name else 'the main program'}. Put it into a .py file of its own and import it"
        )
    trust(f"{public}:{name}")
    return f"{public}:{name}"


def _script() -> str | None:
    """The name that workers import the running script by, if its folder is where Python looks."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if not file:
        return None
    stem = Path(file).stem
    try:
        found = find_spec(stem)
    except (ImportError, ValueError):
        return None
    return stem if found is not None and found.origin and Path(found.origin).resolve() == Path(file).resolve() else None


def paths_of(spec: Spec) -> Iterator[str]:
    """Every import path that a description names.

    Raises:
        InputError: if it does not describe a module.
    """
    children = spec.get("children", {}) if isinstance(spec, dict) else None
    if not isinstance(children, dict):
        raise InputError(f"{_shown(spec)} describes no module: expected a factory with arguments or children")
    if "factory" in spec:
        yield str(spec["factory"])
    for child in children.values():
        yield from paths_of(child)


def build(spec: Spec, *, seed: int = 0) -> nn.Module:
    """Build a module anew; its random weights depend on the seed alone.

    Raises:
        InputError: if the factory cannot be imported, refuses its arguments, or gives no module.
    """
    random_states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        module = _built(spec)
    finally:
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])
        torch.random.set_rng_state(random_states[2])
    frozen = set(spec.get("frozen", ()))
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return module


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


def describe(module: nn.Module) -> Spec:
    """The description of an object, without its weights.

    Raises:
        UnsupportedModelError: if its class cannot be imported, or building it anew gives another module.
    """
    spec = _described(module, where=type(module).__name__)
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return {**spec, "frozen": frozen} if frozen else spec


def _described(module: nn.Module, *, where: str) -> Spec:
    if any(module.__dict__.get(name) for name in _HOOKS):
        raise UnsupportedModelError(f"{where} has hooks, which cannot be kept: expected none. Put their code into forward")
    path = import_path(type(module))
    if type(module) in _CONTAINERS:
        children = {name: _described(child, where=f"{where}.{name}") for name, child in module.named_children()}
        return {"factory": path, "children": children}
    try:
        spec = spec_of_call(path, _arguments(module))
        difference = _difference(module, build(spec), where)
    except InputError as exc:
        difference = str(exc)
    if difference:
        raise UnsupportedModelError(
            f"{where} cannot be rebuilt from its class: {difference}. Give module={path!r} with moduleArgs, "
            "or a function that makes it, or an ONNX file"
        )
    return spec


def _arguments(module: nn.Module) -> dict[str, Any]:
    """The constructor's arguments, from the attributes of the same names; those that are the default may be left out."""
    found: dict[str, Any] = {}
    for name, parameter, inherited in _constructor(type(module)):
        if name in parameters_of(module):
            value: Any = parameters_of(module)[name] is not None
        elif hasattr(module, name) and isinstance(getattr(module, name), (*_PLAIN, list, tuple, dict)):
            value = getattr(module, name)
        elif parameter.default is parameter.empty:
            raise UnsupportedModelError(f"it does not keep its argument {name!r}")
        else:
            continue
        if not (inherited and _same(value, parameter.default)):
            found[name] = value
    return found


def _constructor(kind: type) -> Iterator[tuple[str, inspect.Parameter, bool]]:
    """Parameters of a constructor; of one that hands ``**kwargs`` on (torch's recurrent layers), its parent's too."""
    for depth, parent in enumerate(kind.__mro__):
        if "__init__" not in parent.__dict__:
            continue
        parameters = inspect.signature(parent.__dict__["__init__"]).parameters
        for name, parameter in parameters.items():
            own = name in ("self", "device", "dtype", "mode" if parent is nn.RNNBase else "self")
            if not own and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                yield name, parameter, depth > 0
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return


def _difference(one: Any, other: Any, where: str) -> str:
    """Where two modules are not built alike; empty if nowhere. Values of weights do not count."""
    if type(one) is not type(other):
        return f"{where} is a {type(one).__name__} and would be a {type(other).__name__}"
    for kind, tensors_of in (("parameters", parameters_of), ("buffers", buffers_of)):
        shapes = [
            {name: None if tensor is None else (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors_of(m).items()}
            for m in (one, other)
        ]
        if shapes[0] != shapes[1]:
            return f"{where} has {kind} {_shown(shapes[0])} and would have {_shown(shapes[1])}"
    for name in sorted((one.__dict__.keys() | other.__dict__.keys()) - _OWN):
        if not _same(one.__dict__.get(name), other.__dict__.get(name)):
            return f"{where}.{name} is {_shown(one.__dict__.get(name))} and would be {_shown(other.__dict__.get(name))}"
    children, others = children_of(one), children_of(other)
    if list(children) != list(others):
        return f"{where} has the modules {list(children)} and would have {list(others)}"
    for name, child in children.items():
        difference = _difference(child, others[name], f"{where}.{name}") if child is not None else ""
        if difference:
            return difference
    return ""


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    # Torch's recurrent layers keep lists of their parameters, and references to them, whose values do not count here.
    if isinstance(one, weakref.ref) and isinstance(other, weakref.ref):
        return True
    if isinstance(one, nn.Parameter) and isinstance(other, nn.Parameter):
        return one.shape == other.shape
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other))
    return one is other or (type(one) is type(other) and bool(one == other))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON gives back."""
    if isinstance(value, dict):
        return {name: _listed(entry) for name, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value
