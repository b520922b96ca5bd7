"""The model of a job that trains any module with any loss and optimiser."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, UnsupportedModelError, listed
from ts4s_core.models.weights import Array, read_weights
from ts4s_core.modules.losses import AnyLoss
from ts4s_core.modules.sources import renew
from ts4s_core.modules.spec import Spec, build, paths_of
from ts4s_core.modules.trust import find, trust
from ts4s_core.training.job import TrainJob
from ts4s_core.training.optimizers.any_torch import SlicedTorch, optimizer_maker
from ts4s_core.training.optimizers.schedule import constant
from ts4s_core.training.step.built_model import BuiltModel

WEIGHTS, GRAPH = "model.safetensors", "graph.onnx"
_STORED = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


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
    trust(*paths_of(job.extra["module"]), str(job.extra["loss"]["factory"]), str(job.extra["optimizer"]["factory"]))
    ref = job.model_ref
    files = {entry.path for entry in store.manifest(ref).files}
    graph = store.local_file(ref, GRAPH).read_bytes() if GRAPH in files else None
    weights = read_weights(store.local_file(ref, WEIGHTS)) if WEIGHTS in files else None
    module = make_module(job.extra["module"], graph=graph, weights=weights, seed=job.settings.seed)
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


def make_module(spec: Spec, *, graph: bytes | None, weights: Mapping[str, Array] | None, seed: int = 0) -> nn.Module:
    """A module as described, with these weights (None: its own).

    Raises:
        InputError: if it cannot be built.
        UnsupportedModelError: if the weights are another module's.
    """
    if graph is not None:
        from ts4s_core.modules.graphs import module_of_onnx  # brings onnx, which no other module needs

        with tempfile.TemporaryDirectory(prefix="ts4s-graph-") as folder:
            module = module_of_onnx(graph, folder=Path(folder))
    else:
        module = build(spec, seed=seed)
    if weights is not None:
        fill(module, weights)
    return module


def fill(module: nn.Module, weights: Mapping[str, Array]) -> None:
    """Put weights and buffers into a module; a tied weight may stand under any of its names.

    Raises:
        UnsupportedModelError: listing what does not fit.
    """
    tensors = {name: torch.tensor(array) for name, array in weights.items()}  # copies: read weights may be read-only
    own = module.state_dict()
    by_storage = {tensor.data_ptr(): name for name, tensor in own.items() if name in tensors and tensor.numel()}
    missing = [name for name, tensor in own.items() if name not in tensors and tensor.data_ptr() not in by_storage]
    problems = [f"no {name}" for name in missing] + [f"unknown {name}" for name in sorted(tensors.keys() - own.keys())]
    problems += [
        f"{name} of shape {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if problems:
        raise UnsupportedModelError(
            f"Weights do not fit the module {type(module).__name__}: got {listed(problems)}. Give the arguments it was made with"
        )
    module.load_state_dict(tensors, strict=False)


def weights_of(module: nn.Module) -> dict[str, Array]:
    """Parameters (a tied one once) and persistent buffers of a module, copied.

    Raises:
        UnsupportedModelError: on a type that is not kept.
    """
    kept = {name for name, _parameter in module.named_parameters()}
    repeated = {name for name, _parameter in module.named_parameters(remove_duplicate=False)} - kept
    state = {name: tensor for name, tensor in module.state_dict().items() if name not in repeated}
    odd = [f"{name} ({tensor.dtype})" for name, tensor in state.items() if tensor.dtype not in _STORED]
    if odd:
        raise UnsupportedModelError(f"Weights of other types than are kept: got {listed(odd)}. Convert them with module.float()")
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


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
