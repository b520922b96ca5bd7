"""A module with all that is needed to predict with it, in memory and as files.

model.json          how it is built, its inputs, its outputs, its labels
model.safetensors   its weights and buffers
constants.safetensors   its other tensors, if it has any
graph.onnx          its graph, if it came as one
tokenizer.json      of a text column, and encoding.json where its configuration says more
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.numpy
import torch
from torch import nn

from ts4s_core.data.tokenizers import ENCODING_FILE, TOKENIZER_FILE, StoredTokenizer
from ts4s_core.errors import IntegrityError, UnsupportedModelError, listed
from ts4s_core.models.weights import Array, weights_sha256
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.spec import Spec, paths_of

MODEL, WEIGHTS, CONSTANTS, GRAPH, _TOKENIZER, _ENCODING = FILES = (
    "model.json",
    "model.safetensors",
    "constants.safetensors",
    "graph.onnx",
    TOKENIZER_FILE,
    ENCODING_FILE,
)
_VERSION = 2
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


@dataclass(frozen=True)
class SavedModule:
    """A module at rest.

    Attributes:
        spec: how it is built; see :mod:`ts4s_core.modules.spec`.
        weights: by name in its state dict; None: it has those that it is built with.
        form: what forward gets of a row; None: not known before the first table.
        output: ``class``, ``value`` or ``vector``; ``auto``: as a row's output turns out.
        activation: what makes probabilities of outputs: ``softmax``, ``sigmoid``, ``exp``, ``identity`` or ``none``.
        labels: label strings by class number, if labels were strings.
        graph: the ONNX file, if it came as one.
        tokenizer: for texts.
        facts: how it was trained, JSON values.
        constants: tensors beside the weights, of a module that is described by its state, or is a graph.
        rows: a few inputs as it was tried with, for its graph; in memory alone.
    """

    spec: Spec
    weights: Mapping[str, Array] | None
    form: InputForm | None = None
    output: str = "class"
    activation: str = "softmax"
    labels: tuple[str, ...] = ()
    graph: bytes | None = None
    tokenizer: StoredTokenizer | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    rows: tuple[Any, ...] = ()

    @property
    def paths(self) -> list[str]:
        """Every import path that building it takes."""
        return list(paths_of(self.spec))

    def weights_sha256(self) -> str:
        """Hash of all weights and buffers: names, types, shapes and bits."""
        return weights_sha256(self.weights or {})

    def to_files(self) -> dict[str, bytes]:
        """Its files; equal modules have equal ones."""
        record = {
            "version": _VERSION,
            "module": self.spec,
            "form": self.form.to_json() if self.form else None,
            "output": self.output,
            "activation": self.activation,
            "labels": list(self.labels),
            "weights_sha256": self.weights_sha256(),
            "facts": self.facts,
        }
        files = {MODEL: json.dumps(record, indent=1, allow_nan=False).encode() + b"\n"}
        if self.weights is not None:
            files[WEIGHTS] = safetensors.numpy.save({name: self.weights[name] for name in sorted(self.weights)})
        if self.constants:
            files[CONSTANTS] = safetensors.numpy.save({name: self.constants[name] for name in sorted(self.constants)})
        if self.graph is not None:
            files[GRAPH] = self.graph
        if self.tokenizer is not None:
            files |= {_TOKENIZER: self.tokenizer.text.encode(), **self.tokenizer.encoding.files()}
        return files

    @classmethod
    def of_tensors(cls, files: Mapping[str, bytes], *, where: str) -> SavedModule:
        """What beside its description is among some files: weights, constants and graph.

        Raises:
            IntegrityError: if they are damaged.
        """
        try:
            tensors = _tensors(files)
        except safetensors.SafetensorError as exc:
            raise IntegrityError(f"Saved module {where} cannot be read: {exc}. Save it again") from exc
        return cls({}, tensors.get(WEIGHTS), graph=files.get(GRAPH), constants=tensors.get(CONSTANTS, {}))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str) -> SavedModule:
        """The module of its files; nothing is imported or built.

        Raises:
            IntegrityError: if they are damaged.
        """
        try:
            record = json.loads(files[MODEL])
            tensors = _tensors(files)
            found = cls(
                spec=record["module"],
                weights=tensors.get(WEIGHTS),
                form=InputForm.from_json(record["form"]) if record["form"] else None,
                output=record["output"],
                activation=record["activation"],
                labels=tuple(record["labels"]),
                graph=files.get(GRAPH),
                tokenizer=StoredTokenizer.of(files) if _TOKENIZER in files else None,
                facts=record["facts"],
                constants=tensors.get(CONSTANTS, {}),
            )
        except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as exc:
            raise IntegrityError(f"Saved module {where} cannot be read: {type(exc).__name__}: {exc}. Save it again") from exc
        if found.weights_sha256() != record["weights_sha256"]:
            raise IntegrityError(f"Saved module {where} has other weights than were saved. Restore its files or save it again")
        return found


def _tensors(files: Mapping[str, bytes]) -> dict[str, dict[str, Array]]:
    """Weights and constants, of those files that are there."""
    return {name: safetensors.numpy.load(files[name]) for name in (WEIGHTS, CONSTANTS) if name in files}


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
