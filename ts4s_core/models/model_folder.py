"""The opened folder of an artifact that holds a model, as every step that uses a model reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.models.spec import GRAPH_FILE, SPEC_FILE, WEIGHTS_FILE, ModelSpec

if TYPE_CHECKING:
    from ts4s_core.models.trainable import TrainableModel
    from ts4s_core.onnx.graph.graph import Array, Graph


@dataclass(frozen=True)
class ModelFolder:
    """The verified files of a ``model`` or ``trained`` artifact on this host; of an ``onnx`` one what they have in common.

    Each file is read when it is first asked for, and once.

    Attributes:
        path: the folder.
    """

    path: Path

    @cached_property
    def spec(self) -> ModelSpec:
        """What ``model.json`` says.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        return ModelSpec.read(self.path)

    @property
    def is_exported(self) -> bool:
        """Whether this is an ``onnx`` artifact, which has no ``model.json`` yet."""
        return not (self.path / SPEC_FILE).is_file()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of the base; empty for an ONNX file made elsewhere."""
        return self._json("config.json")

    @cached_property
    def names(self) -> dict[str, Any]:
        """``names.json`` of an ``onnx`` artifact; empty for any other."""
        return self._json("names.json")

    @cached_property
    def graph(self) -> Graph:
        """The rewritten graph, without head, dropout and adapters. Not to be changed.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        from ts4s_core.onnx.graph.graph import load_own_graph

        return load_own_graph(self.path / GRAPH_FILE)

    @property
    def weights_file(self) -> Path:
        """The weights, adapters apart."""
        return self.path / WEIGHTS_FILE

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files are, if it has any."""
        return self.path / "tokenizer"

    @property
    def pad_id(self) -> int:
        """Token of the padding: the model's, else the configuration's, else the tokenizer's, else 0."""
        if not self.is_exported:
            return self.spec.pad_id
        found = self.config.get("pad_token_id")
        return found if isinstance(found, int) else self._tokenizers_pad_id()

    def build(self) -> TrainableModel:
        """A new model with these weights, in train mode, adapters apart.

        The same folder gives the same modules in the same order in every process. What the files say of the weights' sizes
        takes no memory before the weights' file has the same.

        Raises:
            IntegrityError: a file is missing, damaged, or does not fit the others.
        """
        from ts4s_core.models.graph_model import compose
        from ts4s_core.models.small_networks import build_network
        from ts4s_core.models.weights import read_weights
        from ts4s_core.onnx.graph.failures import graph_failures
        from ts4s_core.onnx.importing.importer import put_tensors

        with graph_failures("Building of the model"):
            model = build_network(self.spec) if self.spec.network is not None else compose(self.graph, self.spec)
            expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
            put_tensors(model, read_weights(self.weights_file, expected=expected))
            return model

    @cached_property
    def merged(self) -> TrainableModel:
        """The model in evaluation mode; what its adapters learnt is part of its weights. Not to be changed.

        Raises:
            IntegrityError: a file is missing, damaged, or does not fit the others.
        """
        from ts4s_core.models.lora import merge_lora

        model = self.build()
        merge_lora(model)
        model.eval()
        return model

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """The weights by state-dict name, adapters merged, tied ones once; views of :attr:`merged`."""
        from ts4s_core.models.trainable import tensors_of

        return tensors_of(self.merged)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}

    def _tokenizers_pad_id(self) -> int:
        path = self.tokenizer_folder / "tokenizer.json"
        if not path.is_file():
            return 0
        record = json.loads(path.read_bytes())
        added = {entry["content"]: entry["id"] for entry in record.get("added_tokens", [])}
        declared = (record.get("padding") or {}).get("pad_id")
        return int(next((value for value in (declared, added.get("<pad>"), added.get("[PAD]")) if value is not None), 0))
