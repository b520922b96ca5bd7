"""A module's state as JSON: class paths, attributes and the names of its tensors; it is restored without its constructor.

    {"factory": "my_package:Net", "tensors": {"layer.weight": ["float32", [3, 4]], ...}, "objects": [
        {"class": "my_package:Net", "state": {"width": 3, "_modules": {"map": {"layer": {"ref": 1}}}, ...}},
        {"class": "torch.nn:Linear", "state": {"_parameters": {"map": {"weight": {"tensor": "layer.weight"}, ...}}, ...}}]}

Each object (modules, and others such as a configuration) is there once, and is referred to by its number: what is shared stays
shared. A value that JSON lacks is a map with one key that says its kind. Tensors that are no parameters or kept buffers are
constants. Restoring makes each object of its class without a call, and gives it its state, as ``copy.deepcopy`` does.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import logging
import math
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.models.weights import Array
from ts4s_core.modules.trust import find, import_path
from ts4s_core.torch_internals import parametrized_again

_EMPTY = nn.Module().__dict__
_LOADING = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_HOOKS = tuple(name for name in _EMPTY if name.endswith(("_hooks", "_hooks_always_called")) and name not in _LOADING)
_FUNCTIONS = (type, type(len), type(lambda: None), np.ufunc)
#: Kinds of values beside lists and maps, each a method of the restoration.
_KINDS = ("ref", "tensor", "array", "float", "numpy", "dtype", "device", "name", "enum", "weak", "logger", "partial", "method")
_MAPS: dict[str, Callable[[Any], Any]] = {"map": dict, "ordered": OrderedDict}
_LISTS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset, "size": torch.Size}


def state_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Array]]:
    """The description of a module, and its constants.

    Raises:
        UnsupportedModelError: naming what cannot be described, and where it is.
    """
    described = _Description(module)
    described.reference(module, where=type(module).__name__)
    spec = {"factory": described.objects[0]["class"], "tensors": described.tensors, "objects": described.objects}
    return spec, described.constants


def restored(spec: Mapping[str, Any], constants: Mapping[str, Array]) -> nn.Module:
    """The module of a description, its parameters and buffers zero.

    Raises:
        InputError: if a class is not trusted or cannot be imported, or the description is none.
    """
    try:
        module = _Restoration(spec, constants).run()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        raise InputError(
            f"{spec.get('factory')} cannot be restored from its state: {type(exc).__name__}: {exc}. "
            "Is its class another here than where it was described?"
        ) from exc
    if not isinstance(module, nn.Module):
        raise InputError(f"{spec.get('factory')} is a {type(module).__name__}: expected a torch.nn.Module")
    return module


def paths_of_state(spec: Mapping[str, Any]) -> Iterator[str]:
    """Every import path that the objects of a description name.

    Raises:
        InputError: if it is none.
    """
    try:
        for entry in spec["objects"]:
            yield str(entry["class"])
            for value in entry["state"].values():
                yield from _names_in(value)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InputError(f"State of {spec.get('factory')} describes no module: {type(exc).__name__}: {exc}") from exc


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _names_in(entry)
    elif isinstance(value, dict):
        ((kind, inside),) = value.items()
        if kind == "name":
            yield str(inside)
        elif kind == "map" and isinstance(inside, dict):
            yield from _names_in(list(inside.values()))
        else:
            yield from _names_in(inside)


class _Description:
    def __init__(self, root: nn.Module) -> None:
        self.objects: list[dict[str, Any]] = []
        self.tensors: dict[str, list[Any]] = {}
        self.constants: dict[str, Array] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # what is known by its id must not go away
        stored = root.state_dict(keep_vars=True)
        named = [*root.named_parameters(), *((name, tensor) for name, tensor in root.named_buffers() if name in stored)]
        self._names = {id(tensor): name for name, tensor in named}

    def reference(self, thing: Any, *, where: str) -> dict[str, Any]:
        """An object by its number."""
        if id(thing) not in self._numbers:
            number = self._numbers[id(thing)] = len(self.objects)
            self._kept.append(thing)
            self.objects.append({})
            kind: Any = type(thing)
            entry: dict[str, Any] = {}
            if isinstance(thing, (types.ModuleType, torch.jit.ScriptModule, torch.fx.GraphModule)):
                raise _refusal(where, thing)
            if isinstance(thing, nn.Module) and parametrize.is_parametrized(thing):
                kind = kind.__mro__[1]
                entry["parametrized"] = list(thing.parametrizations)  # type: ignore[arg-type]
            state = self._state(thing, kind, where)
            entry = {"class": import_path(kind), **entry}
            entry["state"] = {name: self._value(value, f"{where}.{name}") for name, value in state.items()}
            self.objects[number] = entry
        return {"ref": self._numbers[id(thing)]}

    def _state(self, thing: Any, kind: Any, where: str) -> dict[str, Any]:
        if any(getattr(thing, name, None) for name in _HOOKS if isinstance(thing, nn.Module)):
            raise UnsupportedModelError(
                f"{where} has hooks, which cannot be kept: expected none. Put their code into forward; in place of "
                "torch.nn.utils.weight_norm use torch.nn.utils.parametrizations.weight_norm"
            )
        own = "__getstate__" in {name for base in kind.__mro__[:-1] for name in base.__dict__}
        found = thing.__getstate__() if own and kind is type(thing) else getattr(thing, "__dict__", None)
        makable = False
        slots = [base for base in kind.__mro__ if base.__dict__.get("__slots__")]
        with contextlib.suppress(TypeError):
            kind.__new__(kind)
            makable = True
        if not makable or not isinstance(found, dict) or (slots and not own) or not all(isinstance(name, str) for name in found):
            raise _refusal(where, thing)
        if not isinstance(thing, nn.Module):
            return dict(found)
        return {
            name: value
            for name, value in found.items()
            if name not in _LOADING and not (name in _EMPTY and (value is None or value == _EMPTY[name]) and name != "training")
        }

    def _value(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            return self._container(value, where)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if isinstance(value, nn.Module):
            return self.reference(value, where=where)
        return self._other(value, where)

    def _container(self, value: Any, where: str) -> Any:
        kinds: dict[Any, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", torch.Size: "size"}
        if isinstance(value, dict):
            if type(value) not in (dict, OrderedDict):
                raise _refusal(where, value)
            inside = {key: f"{where}.{key}" for key in value}
            if type(value) is dict and all(isinstance(key, str) for key in value):
                return {"map": {key: self._value(entry, inside[key]) for key, entry in value.items()}}
            kind = "map" if type(value) is dict else "ordered"
            return {kind: [[self._value(key, where), self._value(entry, inside[key])] for key, entry in value.items()]}
        if type(value) not in kinds:
            raise _refusal(where, value)
        if id(value) in self._numbers:
            raise UnsupportedModelError(f"{where} holds itself: expected lists of plain values. Keep it out of the module")
        self._numbers[id(value)] = -1
        entries = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        found = [self._value(entry, f"{where}[{place}]") for place, entry in enumerate(entries)]
        del self._numbers[id(value)]
        return found if type(value) is list else {kinds[type(value)]: found}

    def _tensor(self, value: torch.Tensor, where: str) -> dict[str, Any]:
        if type(value) not in (torch.Tensor, nn.Parameter) or value.layout != torch.strided or value.is_meta:
            raise UnsupportedModelError(
                f"{where} is a {type(value).__name__}: expected a plain tensor with values. Call a lazy module once before"
            )
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = f"constant.{len(self.constants)}"
            self._kept.append(value)
            try:
                self.constants[name] = value.detach().cpu().numpy().copy()
            except TypeError as exc:
                raise UnsupportedModelError(f"{where} is of type {value.dtype}, which is not kept: convert it before") from exc
            if isinstance(value, nn.Parameter):
                raise UnsupportedModelError(f"{where} is a parameter that no module of it has registered: register it")
        elif name not in self.constants:
            kind = "parameter" if isinstance(value, nn.Parameter) else "buffer"
            self.tensors[name] = [str(value.dtype).removeprefix("torch."), list(value.shape), kind]
        return {"tensor": name}

    def _other(self, value: Any, where: str) -> Any:
        if isinstance(value, enum.Enum):
            return {"enum": [{"name": import_path(type(value))}, value.name]}
        if isinstance(value, np.generic):
            return {"numpy": [value.dtype.str, value.item()]}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return {"array": self._tensor(torch.from_numpy(value.copy()), where)}
        for kind, name in ((torch.dtype, "dtype"), (torch.device, "device")):
            if isinstance(value, kind):
                return {name: str(value).removeprefix("torch.")}
        if isinstance(value, weakref.ref):
            return {"weak": self._value(value(), where)}
        if isinstance(value, logging.Logger):
            return {"logger": value.name}
        if isinstance(value, functools.partial):
            return {"partial": [self._value(piece, where) for piece in (value.func, list(value.args), dict(value.keywords))]}
        if inspect.ismethod(value):
            return {"method": [self.reference(value.__self__, where=where), value.__func__.__name__]}
        if isinstance(value, _FUNCTIONS):
            return {"name": import_path(value)}
        return self.reference(value, where=where)


def _refusal(where: str, value: object) -> UnsupportedModelError:
    kind = type(value)
    return UnsupportedModelError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be described: expected modules, tensors, plain "
        "values, functions and objects with attributes. Keep it out of the module, or give a function that makes the module"
    )


class _Restoration:
    def __init__(self, spec: Mapping[str, Any], constants: Mapping[str, Array]) -> None:
        self._entries = spec["objects"]
        self._objects: list[Any] = []
        self._tensors: dict[str, torch.Tensor] = {name: torch.tensor(array) for name, array in constants.items()}
        for name, (dtype, shape, kind) in spec["tensors"].items():
            zeros = torch.zeros(shape, dtype=_dtype(dtype))
            self._tensors[name] = nn.Parameter(zeros, requires_grad=zeros.is_floating_point()) if kind == "parameter" else zeros

    def run(self) -> Any:
        for entry in self._entries:
            kind: Any = find(entry["class"])
            if not isinstance(kind, type):
                raise InputError(f"{entry['class']} is a {type(kind).__name__}: expected a class")
            made = kind.__new__(kind)  # type: ignore[call-overload]
            if isinstance(made, nn.Module):
                nn.Module.__init__(made)
            self._objects.append(made)
        for made, entry in zip(reversed(self._objects), reversed(self._entries), strict=True):  # what is inside comes first
            state = {name: self._value(value) for name, value in entry["state"].items()}
            if hasattr(made, "__setstate__"):
                made.__setstate__(state)
            else:
                made.__dict__.update(state)
            if "parametrized" in entry:
                parametrized_again(made, entry["parametrized"])
        return self._objects[0]

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        ((kind, inside),) = value.items()
        if kind in _LISTS:
            return _LISTS[kind](self._value(inside))
        if kind in _MAPS:
            pairs = inside.items() if isinstance(inside, dict) else inside
            return _MAPS[kind]((self._value(key), self._value(entry)) for key, entry in pairs)
        if kind not in _KINDS:
            raise InputError(f"{kind!r} is no kind of value of a module's state")
        made: Any = getattr(self, f"_{kind}")(inside)
        return made

    def _ref(self, number: int) -> Any:
        return self._objects[number]

    def _tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def _array(self, inside: Any) -> Any:
        return self._value(inside).numpy()

    def _float(self, text: str) -> float:
        return float(text)

    def _numpy(self, pair: Any) -> Any:
        return np.dtype(pair[0]).type(pair[1])

    def _dtype(self, name: str) -> torch.dtype:
        return _dtype(name)

    def _device(self, name: str) -> torch.device:
        return torch.device(name)

    def _name(self, path: str) -> Any:
        return find(path)

    def _enum(self, pair: Any) -> Any:
        return self._value(pair[0])[pair[1]]

    def _weak(self, inside: Any) -> Any:
        return weakref.ref(self._value(inside))

    def _logger(self, name: str) -> Any:
        return logging.getLogger(name)

    def _partial(self, pieces: Any) -> Any:
        function, arguments, keywords = map(self._value, pieces)
        return functools.partial(function, *arguments, **keywords)

    def _method(self, pair: Any) -> Any:
        if not isinstance(pair[1], str) or pair[1].startswith("__"):
            raise InputError(f"{pair[1]!r} is no method that a module keeps")
        return getattr(self._value(pair[0]), pair[1])


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise InputError(f"{name!r} is no type of torch's")
    return found
