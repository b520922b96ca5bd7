"""A module as the graph of operators that its forward is: what is saved where no import path leads to its class.

    {"program": {"inputs": ["x"], "sizes": [[[0, null], 4]], "eval": GRAPH, "train": GRAPH}, "tensors": {...}}
    GRAPH: {"tensors": ["layer.weight", "=0"], "outputs": [...], "steps": [["aten.linear.default", [{"node": 2}, ...], []], ...]}

A graph lists its operators in order, each with its arguments as JSON, by place and by name: ``{"node": 3}`` is the value at
place 3, of which the first are tensors of the module, then inputs. Operators are torch's own (``aten``) and arithmetic of
sizes. So a file names no code: running it calls nothing else.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ts4s_core.errors import InputError
from ts4s_core.models.weights import Array
from ts4s_core.torch_internals import container_at

MODES = EVAL, TRAIN = ("eval", "train")
#: What names of tensors beside the weights begin with.
CONSTANT = "="
_OPERATOR = re.compile(r"aten\.[A-Za-z_]\w*\.\w+\Z")
#: Operators that do more than compute.
_REFUSED = frozenset({"from_file", "save", "_print"})
ARITHMETIC: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge")
} | {
    "and_": operator.and_,
    "or_": operator.or_,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_int": torch.sym_int,
    "sym_float": torch.sym_float,
    "sym_not": torch.sym_not,
}


def is_operator(name: str) -> bool:
    """Whether a name is that of an operator that a graph may have."""
    return name in ARITHMETIC or bool(_OPERATOR.match(name) and name.split(".")[1] not in _REFUSED)


class Program(nn.Module):
    """Runs the graph of a description; parameters and buffers have the names that they have in the module it was found in.

    Args:
        spec: see there; parameters are zero.
        constants: tensors beside them.

    Raises:
        InputError: if it is none, or names an operator that is not torch's own.
    """

    def __init__(self, spec: Mapping[str, Any], constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.program = spec["program"]
        for name, (dtype, shape, kind) in spec["tensors"].items():
            zeros = torch.zeros(shape, dtype=_torch_value(dtype))
            parent, _, last = name.rpartition(".")
            if kind == "parameter":
                container_at(self, parent).register_parameter(last, nn.Parameter(zeros, zeros.is_floating_point()))
            else:
                container_at(self, parent).register_buffer(last, zeros)
        for name, array in constants.items():
            self.register_buffer(_attribute(name), torch.tensor(array), persistent=False)
        self._steps = self._read()

    def __getstate__(self) -> dict[str, Any]:
        """All but what follows from the description."""
        return {name: value for name, value in self.__dict__.items() if name != "_steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See there."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._steps = self._read()

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """What runs it, inputs by place or by name; it has the names of the module's own."""
        return _Forward(self)

    def run(self, inputs: Sequence[torch.Tensor]) -> Any:
        """What the module gives.

        Raises:
            InputError: on other inputs than the graph was found for.
        """
        mode = TRAIN if self.training else EVAL
        if mode not in self._steps:
            raise InputError(
                "The graph of this module only predicts: in training it gave something else than its class does. Train its class"
            )
        _check_sizes(inputs, self.program["sizes"])
        graph, where = self.program[mode], inputs[0].device
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        held: list[Any] = [*(tensors[_attribute(name)] for name in graph["tensors"]), *inputs]
        for function, arguments, options, done in self._steps[mode]:
            held.append(function(*_given(arguments, held, where), **dict(_given(options, held, where))))
            for place in done:
                held[place] = None
        outputs = _given(graph["outputs"], held, where)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _read(self) -> dict[str, Any]:
        return {mode: _steps(self.program[mode]) for mode in MODES if mode in self.program}


class _Forward:
    """A program's forward, with the names of its inputs."""

    def __init__(self, program: Program) -> None:
        self._program = program
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in program.program["inputs"]])

    def __call__(self, *values: torch.Tensor, **named: torch.Tensor) -> Any:
        return self._program.run(self.__signature__.bind(*values, **named).args)


def _attribute(name: str) -> str:
    """Where a program has a tensor."""
    return f"_constant_{name[1:]}" if name.startswith(CONSTANT) else name


def _check_sizes(inputs: Sequence[torch.Tensor], sizes: Sequence[Any]) -> None:
    if len(inputs) != len(sizes):
        raise InputError(f"The graph of a saved module takes {len(sizes)} inputs: got {len(inputs)}")
    for value, wanted in zip(inputs, sizes, strict=True):
        fits = value.ndim == len(wanted) and all(
            size == limits if isinstance(limits, int) else limits[0] <= size <= (limits[1] or size)
            for size, limits in zip(value.shape, wanted, strict=True)
        )
        if not fits:
            shown = [limits if isinstance(limits, int) else f"{limits[0]} to {limits[1] or 'any'}" for limits in wanted]
            raise InputError(f"The graph of a saved module takes an input of shape {shown}: got {tuple(value.shape)}")


def _steps(graph: Mapping[str, Any]) -> list[tuple[Any, Any, Any, list[int]]]:
    """Function, arguments, named arguments of each step, and the values that nothing needs after it."""
    first = len(graph["steps"])
    last: dict[int, int] = {}
    for number, (_name, arguments, options) in enumerate(graph["steps"]):
        last |= dict.fromkeys(_places([arguments, options]), number)
    last |= dict.fromkeys(_places(graph["outputs"]), first)
    done: dict[int, list[int]] = {}
    for place, number in last.items():
        done.setdefault(number, []).append(place)
    return [
        (_function(name), arguments, options, done.get(number, []))
        for number, (name, arguments, options) in enumerate(graph["steps"])
    ]


def _function(name: Any) -> Any:
    if not isinstance(name, str) or not is_operator(name):
        raise InputError(f"Saved module names {name!r}: expected an operator of torch's own, such as aten.relu.default")
    if name in ARITHMETIC:
        return ARITHMETIC[name]
    _, packet, overload = name.split(".")
    try:
        return getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError as exc:
        raise InputError(f"Saved module names the operator {name}, which this torch ({torch.__version__}) lacks") from exc


def _places(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for entry in value:
            yield from _places(entry)
    elif isinstance(value, dict) and "node" in value:
        yield value["node"]


def _given(value: Any, held: Sequence[Any], where: torch.device) -> Any:
    """An argument of its JSON; the device is that of the inputs."""
    if isinstance(value, list):
        return [_given(entry, held, where) for entry in value]
    if not isinstance(value, dict):
        return value
    if "node" in value:
        return held[value["node"]]
    if "device" in value:
        return where
    if "float" in value:
        return float(value["float"])
    return _torch_value(value["torch"])


def _torch_value(name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise InputError(f"Saved module names torch.{name}: expected a type, a layout or a memory format")
    return found
