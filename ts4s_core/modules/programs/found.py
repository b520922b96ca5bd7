"""The graph of a module, found by one forward over a few rows, and checked against the module.

``torch.export`` finds it. A module whose way through its own code hangs on the numbers of a row has none.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.weights import Array
from ts4s_core.modules.programs.program import ARITHMETIC, CONSTANT, EVAL, MODES, TRAIN, Program, is_operator
from ts4s_core.torch_internals import operator_name, recurrent_as_operators

#: Longest difference of a graph's outputs from its module's, of their largest number or of 1.
TOLERANCE = 1e-5
#: What says nothing but how a graph was found.
_IDLE = frozenset({"aten._assert_tensor_metadata.default"})
_NAMES = {function: name for name, function in ARITHMETIC.items()}
_AT_A_TIME = "at a time"
#: Tokens that no check makes a text of.
_LONG = 8_192
Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Example:
    """Inputs of a few rows, as forward takes them.

    Attributes:
        inputs: (B, ...) each.
        outputs: which of a module's outputs count, one by one.
        names: forward's argument names; empty: by place.
        tokens: whether the second axis of each is as long as a text.
    """

    inputs: Inputs
    outputs: Callable[[Any], tuple[Any, ...]]
    names: tuple[str, ...] = ()
    tokens: bool = False

    def roomy(self) -> Inputs:
        """The inputs with at least two rows and two tokens: a size of one would be taken for one that never changes."""
        found = self.inputs
        if len(found[0]) < 2:
            found = tuple(torch.cat([value, value]) for value in found)
        if self.tokens and found[0].shape[1] < 2:
            found = tuple(torch.cat([value, value], dim=1) for value in found)
        return found

    def others(self, most: int | None) -> Iterator[Inputs]:
        """The rows, and such of other sizes; of tokens one more than a graph takes, too."""
        yield self.inputs
        yield tuple(value[:1] for value in self.inputs)
        yield tuple(value.repeat(3, *(1 for _axis in value.shape[1:])) for value in self.inputs)
        if self.tokens:
            yield tuple(value[:, : (value.shape[1] + 1) // 2] for value in self.inputs)
            length = self.inputs[0].shape[1]
            longer = 2 * length if most is None else most + 1 if most < _LONG else length
            yield tuple(value.repeat(1, -(-longer // length))[:, :longer] for value in self.inputs)


def program_of(module: nn.Module, example: Example, *, learns: bool) -> tuple[dict[str, Any], dict[str, Array]]:
    """The description of a module's graph, and its constants.

    Args:
        module: any; it stays as it is.
        example: a few rows.
        learns: whether the graph in training is wanted too, if it has one that gives what the module gives.

    Raises:
        UnsupportedModelError: if its forward is no graph, or the graph answers otherwise.
    """
    modes = {child: child.training for child in module.modules()}
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    found = _Found(module, example)
    spec: dict[str, Any] = {}
    graphs: dict[str, Any] = {}
    try:
        for mode in MODES if learns else (EVAL,):
            module.train(mode == TRAIN)
            try:
                graph = found.graph()
                spec = {"program": {**found.facts(), **graphs, mode: graph}, "tensors": found.tensors}
                _check(module, Program(spec, found.constants), example)
                if any(not torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items()):
                    raise UnsupportedModelError("it changes its own tensors")
                graphs[mode] = graph
            except UnsupportedModelError as exc:
                if mode == TRAIN:
                    break
                raise UnsupportedModelError(
                    f"{type(module).__name__} has no import path, so that its graph is what would be saved, and it has none: "
                    f"{exc}. Put its class into a .py file of its own and import it, or write its forward without decisions that "
                    "hang on the numbers of a row"
                ) from exc
            finally:
                with torch.no_grad():
                    for key, tensor in module.state_dict().items():  # running statistics are counted in training
                        tensor.copy_(state[key])
    finally:
        for child, training in modes.items():
            child.training = training
    frozen = [key for key, parameter in module.named_parameters() if not parameter.requires_grad]
    spec = {"program": {**found.facts(), **graphs}, "tensors": found.tensors}
    return ({**spec, "frozen": frozen} if frozen else spec), found.constants


class _Found:
    """What export tells of a module."""

    def __init__(self, module: nn.Module, example: Example) -> None:
        self._module, self._example = module, example
        stored = module.state_dict(keep_vars=True)
        named = [*module.named_parameters(), *((name, tensor) for name, tensor in module.named_buffers() if name in stored)]
        self._names = {id(tensor): name for name, tensor in named}
        self.tensors = {name: [str(one.dtype).removeprefix("torch."), list(one.shape), _kind(one)] for name, one in named}
        self.constants: dict[str, Array] = {}
        self._sizes: list[Any] = []

    def facts(self) -> dict[str, Any]:
        """Names of the inputs, and sizes that they may have."""
        known = list(inspect.signature(self._module.forward).parameters)
        count = len(self._example.inputs)
        named = len(known) >= count and all(name.isidentifier() for name in known)
        names = list(self._example.names) or (known[:count] if named else [f"input{at}" for at in range(count)])
        return {"inputs": names, "sizes": self._sizes}

    def graph(self) -> dict[str, Any]:
        """The graph of the module in its mode.

        Raises:
            UnsupportedModelError: if it has none.
        """
        program, self._sizes = _exported(self._module, self._example)
        signature = program.graph_signature
        known = {place: self._tensor(path) for place, path in signature.inputs_to_parameters.items()}
        known |= {place: self._tensor(path) for place, path in signature.inputs_to_buffers.items()}
        lifted = signature.inputs_to_lifted_tensor_constants
        known |= {place: self._constant(program.constants[path]) for place, path in lifted.items()}
        holders = [node for node in program.graph.nodes if node.op == "placeholder"]
        users = [node for node in holders if node.name in signature.user_inputs]
        if len(users) != len(self._example.inputs) or len(users) + len(known) != len(holders):
            raise UnsupportedModelError("it takes something else than its inputs and its tensors")
        places = {name: place for place, name in enumerate([*known, *(node.name for node in users)])}
        steps: list[Any] = []
        outputs: list[Any] = []
        for node in program.graph.nodes:
            if node.op == "output":
                outputs = _written(list(node.args[0]), places)
            elif node.op == "call_function":
                name = _name_of(node.target)
                if name not in _IDLE:
                    places[node.name] = len(holders) + len(steps)
                    steps.append([name, _written(list(node.args), places), _written(list(node.kwargs.items()), places)])
            elif node.op != "placeholder":
                raise UnsupportedModelError(f"it needs {node.target}, a graph within the graph")
        return {"tensors": list(known.values()), "steps": steps, "outputs": outputs}

    def _tensor(self, path: str) -> str:
        parent, _, last = path.removeprefix(f"{_Outputs.INSIDE}.").rpartition(".")
        tensor = getattr(self._module.get_submodule(parent), last)
        return self._names.get(id(tensor)) or self._constant(tensor)

    def _constant(self, tensor: torch.Tensor) -> str:
        array = tensor.detach().cpu().numpy().copy()
        for name, known in self.constants.items():  # the same ones in training as in prediction
            if known.dtype == array.dtype and known.shape == array.shape and known.tobytes() == array.tobytes():
                return name
        name = f"{CONSTANT}{len(self.constants)}"
        self.constants[name] = array
        return name


def _kind(tensor: torch.Tensor) -> str:
    return "parameter" if isinstance(tensor, nn.Parameter) else "buffer"


class _Outputs(nn.Module):
    """A module whose inputs are given by place, and whose outputs are those that a loss and a prediction take."""

    INSIDE = "inside"

    def __init__(self, module: nn.Module, example: Example) -> None:
        super().__init__()
        self.inside, self._argument_names, self._outputs = module, example.names, example.outputs
        self.training = module.training

    def forward(self, *values: torch.Tensor) -> Any:
        if self._argument_names:
            return self._outputs(self.inside(**dict(zip(self._argument_names, values, strict=True))))
        return self._outputs(self.inside(*values))


def _exported(module: nn.Module, example: Example) -> tuple[Any, list[Any]]:
    """What torch.export gives, and the sizes that each input may have.

    The quick way takes ``len(x)`` for a number that never changes; the other one, that reads the code itself, does not.

    Raises:
        UnsupportedModelError: if neither finds a graph that takes any number of rows.
    """
    try:
        return _exported_by(module, example, strict=False)
    except UnsupportedModelError as exc:
        try:
            return _exported_by(module, example, strict=True)
        except UnsupportedModelError as other:
            raise (other if _AT_A_TIME in str(exc) else exc) from exc


def _exported_by(module: nn.Module, example: Example, *, strict: bool) -> tuple[Any, list[Any]]:
    inputs = example.roomy()
    axes = {0: torch.export.Dim.AUTO, **({1: torch.export.Dim.AUTO} if example.tokens else {})}
    talkative = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = talkative.level
    try:
        talkative.setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),  # where a failed export shows what it had
            contextlib.redirect_stderr(io.StringIO()),
            torch.random.fork_rng(devices=[]),
            recurrent_as_operators(),
        ):
            warnings.simplefilter("ignore")
            shapes = {"values": (axes,) * len(inputs)}
            wrapped = _Outputs(module, example)
            program = torch.export.export(wrapped, inputs, dynamic_shapes=shapes, strict=strict)
    except Exception as exc:  # whatever the module's code and torch raise
        reason = str(exc).strip().partition("\n")[0]
        raise UnsupportedModelError(f"{type(exc).__name__}: {reason[:300]}") from exc
    finally:
        talkative.setLevel(level)
    users = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    return program, [_sizes_of(value, program.range_constraints, tokens=example.tokens) for value in values]


def _sizes_of(value: Any, ranges: Mapping[Any, Any], *, tokens: bool) -> list[Any]:
    """Of each axis its size, or the least and the most (None: any) that it may have.

    Raises:
        UnsupportedModelError: if it takes only some numbers of rows, or of tokens, or a size hangs on another one.
    """
    found: list[Any] = []
    for axis, size in enumerate(value.shape):
        known = size if isinstance(size, int) else size.node.maybe_as_int()
        if known is not None:
            if axis <= int(tokens):
                raise UnsupportedModelError(f"it takes {known} {('rows', 'tokens')[axis]} {_AT_A_TIME} and no other number")
            found.append(known)
            continue
        limits = ranges.get(size.node.expr)
        if limits is None:
            raise UnsupportedModelError(f"a size of its inputs is {size.node.expr}, of another one")
        # One is a size like others to an operator; a module that tells it apart is found out by the check.
        least = 0 if limits.lower <= 2 else int(limits.lower)
        most = int(limits.upper) if limits.upper < 2**48 else None
        if not axis and (least or most):
            raise UnsupportedModelError(f"it does another thing for more than {most or least - 1} rows at a time")
        found.append([least, most])
    return found


def _name_of(target: Any) -> str:
    name = operator_name(target) or _NAMES.get(target, "")
    if not is_operator(name):
        raise UnsupportedModelError(f"it needs {target}, which is no operator of torch's own")
    return name


def _written(value: Any, places: Mapping[str, int]) -> Any:
    """An argument as JSON."""
    if isinstance(value, torch.fx.Node):
        return {"node": places[value.name]}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return [_written(entry, places) for entry in value]
    if isinstance(value, torch.device):
        return {"device": True}
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        if isinstance(value, kind):
            return {"torch": str(value).removeprefix("torch.")}
    raise UnsupportedModelError(f"it gives an operator a {type(value).__name__}")


def _check(module: nn.Module, program: Program, example: Example) -> None:
    """Compare a graph's answers with its module's, for several sizes that the module takes.

    Raises:
        UnsupportedModelError: if one differs.
    """
    program.train(module.training)
    program.load_state_dict(module.state_dict(), strict=False)
    most = program.program["sizes"][0][1][1] if example.tokens else None
    for inputs in example.others(most):
        shown = ", ".join(str(tuple(value.shape)) for value in inputs)
        try:
            expected = _answers(module, example, inputs)
        except Exception:
            continue
        try:
            found = _answers(program, example, inputs)
        except Exception as exc:
            reason = str(exc).partition("\n")[0][:200]
            raise UnsupportedModelError(f"its graph fails on inputs of shape {shown}: {type(exc).__name__}: {reason}") from exc
        for own, other in zip(expected, found, strict=True):
            limit = TOLERANCE * max(1.0, float(own.nan_to_num(0.0, 0.0, 0.0).abs().max()) if own.numel() else 0.0)
            if own.shape != other.shape or not torch.allclose(own, other, rtol=0.0, atol=limit, equal_nan=True):
                raise UnsupportedModelError(f"its graph answers otherwise on inputs of shape {shown}")


def _answers(module: nn.Module, example: Example, inputs: Inputs) -> list[torch.Tensor]:
    """Outputs in double precision; what is random is drawn from one seed."""
    named = dict(zip(example.names, inputs, strict=True)) if example.names else {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [value.double() for value in example.outputs(module(*(() if named else inputs), **named))]
