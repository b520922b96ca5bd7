"""What ts4s asks of torch by names that torch keeps to itself: here, and nowhere else.

``tests/unit/test_torch_internals.py`` says whether the installed version still has them.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase as NormalisingLayer  # what batch and instance normalisation share

__all__ = [
    "NormalisingLayer",
    "buffers_of",
    "children_of",
    "container_at",
    "fused_adamw",
    "gloo_options",
    "operator_name",
    "optimizers_without_compiler",
    "parameters_of",
    "parametrized_again",
    "recurrent_as_operators",
    "step_of",
    "version_of",
]

_COMPILER = "torch._dynamo"
_OWN = "ts4s_export"
_KEPT: list[Any] = []


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters by local name, those that it goes without included; a view."""
    return module._parameters


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """A module's own buffers by local name, likewise; a view."""
    return module._buffers


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own children by local name, in order, one that is there twice included; a view."""
    return module._modules


def container_at(root: nn.Module, path: str) -> nn.Module:
    """The descendant of a module at a dotted path; empty modules are made on the way to it."""
    for piece in path.split(".") if path else ():
        child = children_of(root).get(piece)
        if child is None:
            child = nn.Module()
            root.add_module(piece, child)
        root = child
    return root


def parametrized_again(module: nn.Module, names: list[str]) -> None:
    """Compute some of a module's tensors by its child ``parametrizations``, which is there already."""
    from torch.nn.utils import parametrize

    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


def operator_name(target: object) -> str:
    """The name of one of torch's operators as a graph has it, ``aten.relu.default``; empty for anything else."""
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    namespace, _, name = str(target).partition(".")
    return f"aten.{name.partition('.')[0]}.input" if namespace == _OWN else str(target)


@contextlib.contextmanager
def recurrent_as_operators() -> Iterator[None]:
    """Within, torch's recurrent layers are one operator each to torch.export, which would else unroll them for one length.

    :func:`operator_name` gives the operators' real names; their arguments are the same.
    """
    operators = _recurrent_operators()
    before = {name: torch._VF.__dict__.get(name) for name in operators}
    try:
        for name, function in operators.items():
            setattr(torch._VF, name, function)
        yield
    finally:
        for name in operators:
            delattr(torch._VF, name)
            if before[name] is not None:
                setattr(torch._VF, name, before[name])


@functools.cache
def _recurrent_operators() -> dict[str, Any]:
    """Stand-ins with the shapes of their results alone."""
    options = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
    library: Any = torch.library.Library(_OWN, "DEF")  # type: ignore[no-untyped-call]

    def long_short(data: torch.Tensor, hx: list[torch.Tensor], _params: Any, *options: Any) -> Any:
        return _result(data, hx[0], options), torch.empty_like(hx[0]), torch.empty_like(hx[1])

    def one(data: torch.Tensor, hx: torch.Tensor, _params: Any, *options: Any) -> Any:
        return _result(data, hx, options), torch.empty_like(hx)

    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        states, given = ("Tensor[] hx", "(Tensor, Tensor, Tensor)") if name == "lstm" else ("Tensor hx", "(Tensor, Tensor)")
        library.define(f"{name}(Tensor input, {states}, Tensor[] params, {options}) -> {given}")
        torch.library.register_fake(f"{_OWN}::{name}", long_short if name == "lstm" else one, lib=library)
    _KEPT.append(library)  # what it defines goes with it
    return {name: getattr(getattr(torch.ops, _OWN), name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}


def _result(data: torch.Tensor, hx: torch.Tensor, options: tuple[Any, ...]) -> torch.Tensor:
    return data.new_empty(*data.shape[:-1], hx.shape[-1] * (2 if options[4] else 1))


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version


def fused_adamw(*lists: list[torch.Tensor], **options: Any) -> None:
    """One step of AdamW over lists of tensors, in place: torch's optimiser would take whole parameters, not slices."""
    torch._fused_adamw_(*lists, **options)


@contextlib.contextmanager
def optimizers_without_compiler() -> Iterator[None]:
    """Within, torch's optimizers are made without importing torch's compiler (3 s, 70 MiB), unless it is there already.

    They import it only to tell it that it must leave ``add_param_group`` alone.
    """
    plain = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    if _COMPILER in sys.modules or hasattr(plain, "__dynamo_disable"):
        yield
        return
    setattr(plain, "__dynamo_disable", plain)  # where torch looks for the disabled function
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):  # another thread's end of the same
            delattr(plain, "__dynamo_disable")


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """What steps an optimizer, to be called under ``no_grad``: of torch's own kinds without importing torch's compiler."""
    own = type(optimizer).__module__.startswith("torch.optim.")
    if not own or optimizer.defaults.get("differentiable"):
        return optimizer.step
    return functools.partial(inspect.unwrap(type(optimizer).step), optimizer)


def gloo_options(*, address: str, timeout_s: float) -> Any:
    """Options of a gloo group that is bound to one interface: ``init_process_group`` takes one from the environment alone."""
    from torch.distributed import ProcessGroupGloo

    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = datetime.timedelta(seconds=timeout_s)
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    return options
