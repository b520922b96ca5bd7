"""The model of a job that trains any module with any loss and optimiser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError
from ts4s_core.models.weights import read_weights
from ts4s_core.modules.losses import AnyLoss
from ts4s_core.modules.saved import CONSTANTS, GRAPH, WEIGHTS, SavedModule, fill, weights_of
from ts4s_core.modules.sources import renew
from ts4s_core.modules.spec import build, describe, paths_of
from ts4s_core.modules.trust import find, trust
from ts4s_core.training.job import TrainJob
from ts4s_core.training.optimizers.any_torch import SlicedTorch, optimizer_maker
from ts4s_core.training.optimizers.schedule import constant
from ts4s_core.training.step.built_model import BuiltModel


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
    return BuiltModel(
        module,
        buffers=buffers,
        objective=AnyLoss(job.extra["loss"], weighted=job.extra["weighted"]),
        validates=job.extra["validates"],
        # Averaging has AdamW of its own, whose moments it averages too; the driver made sure that this is what is wanted.
        optimizer=None if job.settings.strategy == "averaging" else lambda exchange: SlicedTorch(exchange, make=make),
        rate=constant,
        forward=None if job.extra["device"] == "cpu" else OnDevice(module, job.extra["device"]),
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


class OnDevice:
    """Forward and backward on a GPU, of weights that stay in this host's memory, where workers exchange them."""

    def __init__(self, module: nn.Module, device: str) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device {device} is not on this worker: torch sees no GPU. Use device cpu")
        self._module = module
        self._device = device

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The module's outputs on the CPU, with gradients that reach its parameters."""
        there = {name: parameter.to(self._device) for name, parameter in self._module.named_parameters()}
        moved = {name: buffer.to(self._device) for name, buffer in self._module.named_buffers()}
        found = torch.func.functional_call(self._module, {**there, **moved}, tuple(value.to(self._device) for value in inputs))
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                if moved[name] is not buffer and not torch.equal(moved[name].cpu(), buffer):
                    buffer.copy_(moved[name])
        return tuple(value.cpu() for value in found) if isinstance(found, tuple) else found.cpu()
