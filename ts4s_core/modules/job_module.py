"""The model of a job that trains any module with any loss and optimiser."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError
from ts4s_core.models.weights import read_weights
from ts4s_core.modules.inputs import InputForm, outputs_in
from ts4s_core.modules.losses import AnyLoss
from ts4s_core.modules.saved import CONSTANTS, GRAPH, WEIGHTS, SavedModule, fill, weights_of
from ts4s_core.modules.sources import renew
from ts4s_core.modules.spec import build, describe, paths_of
from ts4s_core.modules.trust import find, trust
from ts4s_core.onnx.seeded_dropout import seed_dropout
from ts4s_core.process_state import PROCESS
from ts4s_core.training.job import TrainJob
from ts4s_core.training.optimizers.any_torch import SlicedTorch, optimizer_maker
from ts4s_core.training.optimizers.schedule import constant
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step.engine import Forward


def module_of_job(job: TrainJob, store: ArtifactStore) -> BuiltModel:
    """The module that ``extra`` describes, with the model artifact's weights if it has any.

    ``extra``: ``module``, ``loss`` and ``optimizer`` (descriptions), ``device``, ``sources`` (hash of each of the program's own
    modules, see :func:`ts4s_core.modules.sources.renew`), ``weighted`` (whether rows have weights) and ``validates`` (whether
    there are validation rows).

    Raises:
        InputError: if one of them cannot be built here.
    """
    renew(job.extra.get("sources", {}))
    # The driver's own code named these, or it would not have sent them.
    trust(*(path for name in ("module", "loss", "optimizer") for path in paths_of(job.extra[name])))
    module = make_module(_start(job, store), seed=job.settings.seed)
    optimizer = job.extra["optimizer"]
    rate = job.settings.learning_rate
    make = optimizer_maker(find(optimizer["factory"]), optimizer["arguments"], learning_rate=rate)
    parameters = {name for name, _parameter in module.named_parameters(remove_duplicate=False)}
    buffers = {name: tensor for name, tensor in module.state_dict().items() if name not in parameters}
    device = in_turn(str(job.extra["device"]), PROCESS.get_or_make("place on this host", (), lambda: 0))
    forward = forward_of(module, device, names=InputForm.from_json(job.extra["form"]).names)
    begin = forward.begin if isinstance(forward, OnDevice) else seed_dropout
    dtype = dtype_of(module)
    if dtype != torch.float32:  # rows are FP32
        forward = InPrecision(forward or module, dtype)
    return BuiltModel(
        module,
        begin,
        buffers=buffers,
        objective=AnyLoss(job.extra["loss"], weighted=job.extra["weighted"]),
        validates=job.extra["validates"],
        # Averaging has AdamW of its own, whose moments it averages too; the driver made sure that this is what is wanted.
        optimizer=None if job.settings.strategy == "averaging" else lambda exchange: SlicedTorch(exchange, make=make),
        rate=constant,
        forward=forward,
    )


def _start(job: TrainJob, store: ArtifactStore) -> SavedModule:
    """What training starts from, of the job's model artifact."""
    ref = job.model_ref
    files = {entry.path for entry in store.manifest(ref).files}
    return SavedModule(
        job.extra["module"],
        read_weights(store.local_file(ref, WEIGHTS)) if WEIGHTS in files else None,
        graph=store.local_file(ref, GRAPH).read_bytes() if GRAPH in files else None,
        constants=read_weights(store.local_file(ref, CONSTANTS)) if CONSTANTS in files else {},
    )


def saved_module(module: nn.Module) -> SavedModule:
    """An object as what can be sent and kept.

    Raises:
        UnsupportedModelError: naming what cannot be described.
    """
    spec, constants = describe(module)
    return SavedModule(spec, weights_of(module), constants=constants)


def make_module(saved: SavedModule, *, seed: int = 0) -> nn.Module:
    """A module as described, with its weights (if it has none: random ones).

    Raises:
        InputError: if it cannot be built.
        UnsupportedModelError: if the weights are another module's.
    """
    if saved.graph is not None:
        from ts4s_core.modules.graphs import module_of_onnx  # brings onnx, which no other module needs

        with tempfile.TemporaryDirectory(prefix="ts4s-graph-") as folder:
            module = module_of_onnx(saved.graph, folder=Path(folder))
    else:
        module = build(saved.spec, seed=seed, constants=saved.constants)
    if saved.weights is not None:
        fill(module, saved.weights)
    return module


def forward_of(module: nn.Module, device: str, *, names: Sequence[str]) -> Forward | None:
    """What to call in place of a module; None: the module itself.

    Args:
        module: the module.
        device: where it computes.
        names: its arguments' names; none: they are given by place.
    """
    if device != "cpu":
        return OnDevice(module, device, names=names)
    return (lambda *values: module(**dict(zip(names, values, strict=True)))) if names else None


class InPrecision:
    """A forward whose inputs are numbers of the module's own kind."""

    def __init__(self, forward: Forward, dtype: torch.dtype) -> None:
        self._forward, self._dtype = forward, dtype

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The module's outputs."""
        return self._forward(*(value.to(self._dtype) if value.is_floating_point() else value for value in inputs))


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a module's numbers are: those of its first floating parameter."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)


class OnDevice:
    """Forward and backward on a GPU, of weights that stay in this host's memory, where workers exchange them.

    Weights are copied to the device once a step (:meth:`begin`), and once for the parts that are evaluated between two steps.
    """

    def __init__(self, module: nn.Module, device: str, *, names: Sequence[str] = ()) -> None:
        check_device(device, here=True)
        self._module = module
        self._device = device
        self._names = names
        self._step = -1
        self._copies: dict[bool, dict[str, torch.Tensor]] = {}

    def begin(self, model: nn.Module, seed: int, step: int, *, part: int) -> None:
        """Seed the dropout of a part, as :func:`ts4s_core.onnx.seeded_dropout.seed_dropout` does; a new step has new weights."""
        seed_dropout(model, seed, step, part=part)
        self._copies.pop(False, None)
        if step != self._step:
            self._step = step
            self._copies.clear()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The module's outputs on the CPU, with gradients that reach its parameters."""
        there = self._weights()
        moved = {name: buffer.to(self._device) for name, buffer in self._module.named_buffers()}
        values = tuple(value.to(self._device) for value in inputs)
        arguments = ((), dict(zip(self._names, values, strict=True))) if self._names else (values, {})
        found = outputs_in(torch.func.functional_call(self._module, {**there, **moved}, *arguments))
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                if moved[name] is not buffer and not torch.equal(moved[name].cpu(), buffer):
                    buffer.copy_(moved[name])
        return tuple(value.cpu() for value in found) if len(found) > 1 else found[0].cpu()

    def _weights(self) -> dict[str, torch.Tensor]:
        learning = torch.is_grad_enabled()
        if learning not in self._copies:
            self._copies[learning] = {name: one.to(self._device) for name, one in self._module.named_parameters()}
        return self._copies[learning]


def check_device(device: str, *, here: bool) -> None:
    """Refuse a device that torch does not know, or that a host does not have.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        here: whether it is to be on this host.

    Raises:
        SettingsError: if it cannot be used.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise SettingsError(f"device {device!r} is not valid: expected cpu, cuda or cuda:N. Set device")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if here and found.type == "cuda" and (found.index or 0) >= count:
        raise SettingsError(f"device {device} is not on this host: torch sees {count} GPUs. Use device cpu")


def in_turn(device: str, number: int) -> str:
    """The device of one of a host's processes: ``cuda`` alone stands for the host's GPUs in turn.

    Args:
        device: as given.
        number: of the process on its host.
    """
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{number % count}" if count else device
