"""A module with all that is needed to predict with it, in memory and as files.

model.json          how it is built, its inputs, its outputs, its labels
model.safetensors   its weights and buffers
graph.onnx          its graph, if it came as one
tokenizer.json      of a text column
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.numpy

from ts4s_core.errors import IntegrityError
from ts4s_core.models.weights import Array, weights_sha256
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.spec import Spec, paths_of

MODEL, WEIGHTS, GRAPH, TOKENIZER = FILES = ("model.json", "model.safetensors", "graph.onnx", "tokenizer.json")
_VERSION = 1


@dataclass(frozen=True)
class SavedModule:
    """A module at rest.

    Attributes:
        spec: how it is built; see :mod:`ts4s_core.modules.spec`.
        weights: by name in its state dict; None: it has those that it is built with.
        form: what forward gets of a row; None: not known before the first table.
        output: ``class``, ``value`` or ``vector``.
        activation: what makes probabilities of outputs: ``softmax``, ``sigmoid``, ``exp``, ``identity`` or ``none``.
        labels: label strings by class number, if labels were strings.
        graph: the ONNX file, if it came as one.
        tokenizer: content of tokenizer.json, for texts.
        facts: how it was trained, JSON values.
    """

    spec: Spec
    weights: Mapping[str, Array] | None
    form: InputForm | None = None
    output: str = "class"
    activation: str = "softmax"
    labels: tuple[str, ...] = ()
    graph: bytes | None = None
    tokenizer: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

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
        if self.graph is not None:
            files[GRAPH] = self.graph
        if self.tokenizer:
            files[TOKENIZER] = self.tokenizer.encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str) -> SavedModule:
        """The module of its files; nothing is imported or built.

        Raises:
            IntegrityError: if they are damaged.
        """
        try:
            record = json.loads(files[MODEL])
            weights = safetensors.numpy.load(files[WEIGHTS]) if WEIGHTS in files else None
            found = cls(
                spec=record["module"],
                weights=weights,
                form=InputForm.from_json(record["form"]) if record["form"] else None,
                output=record["output"],
                activation=record["activation"],
                labels=tuple(record["labels"]),
                graph=files.get(GRAPH),
                tokenizer=files.get(TOKENIZER, b"").decode(),
                facts=record["facts"],
            )
        except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as exc:
            raise IntegrityError(f"Saved module {where} cannot be read: {type(exc).__name__}: {exc}. Save it again") from exc
        if found.weights_sha256() != record["weights_sha256"]:
            raise IntegrityError(f"Saved module {where} has other weights than were saved. Restore its files or save it again")
        return found
