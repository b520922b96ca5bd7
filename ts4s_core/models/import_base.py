"""What an import starts from: an ONNX artifact, compared with its original, or a model of ours."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import Ts4sError
from ts4s_core.models.build import build_model
from ts4s_core.models.graph_model import tensors_of
from ts4s_core.models.heads import HEAD
from ts4s_core.models.lora import merge_lora
from ts4s_core.models.spec import GRAPH_FILE, SPEC_FILE, ModelSpec
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import Array, Graph, load_own_graph
from ts4s_core.onnx.importing.importer import assemble, put_tensors
from ts4s_core.onnx.importing.parity import Original, Ranges, output_width, parity_gate, takes_other_shapes
from ts4s_core.onnx.rewriting.rewrite import rewrite
from ts4s_core.onnx.sources.resolve import ModelSource, max_positions, resolve_source
from ts4s_core.settings import ModelSettings, Settings
from ts4s_core.task_kinds.kind import BaseTask

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore

#: Where families keep their dropout on hidden states.
DROPOUT_KEYS = ("hidden_dropout_prob", "dropout", "resid_pdrop")
DEFAULT_DROPOUT = 0.1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a new model starts from.

    Attributes:
        graph: rewritten, without head, dropout and adapters.
        tensors: its weights by name, in the graph's order.
        width: size of the last axis of its output.
        fixed: batch and length of a graph that takes no other.
        longest: length that a graph of one shape was exported for.
        parity: figures of the gate.
        task: what its output is for.
        head: weights of the head that a model of ours has.
        head_task: what that head is for.
        head_labels: its classes.
    """

    graph: Graph
    tensors: dict[str, Array]
    width: int
    fixed: tuple[int, int] | None
    longest: int | None
    parity: dict[str, Any]
    task: BaseTask
    head: dict[str, Array] = field(default_factory=dict)
    head_task: str = ""
    head_labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """The folder of an ``onnx``, ``model`` or ``trained`` artifact, and what is said of it there.

    Attributes:
        folder: the files.
        config: the Hugging Face configuration; empty for a file made elsewhere.
        names: ``names.json``; empty for a model of ours.
        spec: ``model.json`` of a model of ours.
        max_length: ``model.max_length``.
    """

    folder: Path
    config: dict[str, Any]
    names: dict[str, Any]
    spec: ModelSpec | None
    max_length: int

    @classmethod
    def open(cls, folder: Path, settings: ModelSettings) -> Exported:
        """Read the small files.

        Raises:
            IntegrityError: ``model.json`` is damaged.
        """
        config, names = (
            json.loads((folder / name).read_bytes()) if (folder / name).is_file() else {}
            for name in ("config.json", "names.json")
        )
        spec = ModelSpec.read(folder) if (folder / SPEC_FILE).is_file() else None
        return cls(folder, config, names, spec, settings.max_length)

    @property
    def dropout(self) -> float:
        """Dropout on hidden states that the base was made with."""
        return next((float(self.config[key]) for key in DROPOUT_KEYS if self.config.get(key) is not None), DEFAULT_DROPOUT)

    @property
    def tied(self) -> dict[str, str]:
        """Other names of weights."""
        return dict(self.names.get("tied") or {}) if self.spec is None else dict(self.spec.tied)

    @cached_property
    def pad_id(self) -> int:
        """Of the configuration, else the tokenizer's, else 0."""
        found = self.config.get("pad_token_id")
        if isinstance(found, int):
            return found
        tokenizer = self.folder / "tokenizer" / "tokenizer.json"
        if not tokenizer.is_file():
            return 0
        record = json.loads(tokenizer.read_bytes())
        added = {entry["content"]: entry["id"] for entry in record.get("added_tokens", [])}
        declared = (record.get("padding") or {}).get("pad_id")
        return int(next((value for value in (declared, added.get("<pad>"), added.get("[PAD]")) if value is not None), 0))

    def vocab_size(self, graph: Graph) -> int:
        """Rows of the table that the tokens are looked up in."""
        rows = [node.attributes["shape"][0] for node in graph.nodes if node.op == "Embedding" and node.inputs == ["input_ids"]]
        return int(rows[0] if rows else self.config.get("vocab_size", 2))


@graph_failures("Import of the graph")
def base_of_onnx(exported: Exported, original: Original | None) -> Base:
    """Rewrite the graph of an ``onnx`` artifact, and compare it.

    Raises:
        UnsupportedModelError: naming what is not taken.
        ParityError: naming the tensor that differs.
    """
    path = exported.folder / "model.onnx"
    rewritten = rewrite(path, exported.names if exported.names.get("parameters") else None)
    module = assemble(rewritten.graph)
    put_tensors(module, rewritten.tensors)
    one_shape = rewritten.fixed
    fixed = None if one_shape is None or takes_other_shapes(module, one_shape) else one_shape
    module.fixed = fixed
    ranges = Ranges(
        vocab_size=exported.vocab_size(rewritten.graph),
        pad_id=exported.pad_id,
        max_length=max_positions(exported.config) if exported.config else exported.max_length,
        fixed=one_shape,
    )
    figures = parity_gate(module, onnx_path=path, original=original, ranges=ranges)
    return Base(
        graph=rewritten.graph,
        tensors=rewritten.tensors,
        width=output_width(module),
        fixed=fixed,
        longest=None if one_shape is None else one_shape[1],
        parity=figures,
        task=exported.names["task"],
    )


def original_of(exported: Exported, settings: Settings, *, store: ArtifactStore, source: ModelSource | None) -> Original | None:
    """The module that an ``onnx`` artifact was exported from, if the settings still name it.

    Args:
        exported: the artifact.
        settings: groups ``model`` and ``train.seed``.
        store: where a registry source is looked up.
        source: what ``resolve_source`` gave, if it was called before.
    """
    if source is None:
        try:
            source = resolve_source(settings.model, store, seed=settings.train.seed)
        except Ts4sError as exc:
            _LOG.warning("no original to compare the graph with: %s", exc)
            return None
    if source.kind in ("onnx", "registry") or source.identity != exported.names.get("source", {}).get("identity"):
        _LOG.warning("no original to compare the graph with: model.source %s is no module, or another one", settings.model.source)
        return None
    return Original(source.load()[0])


@graph_failures("Import of the model")
def base_of_model(exported: Exported, ref: ArtifactRef) -> Base:
    """A model of ours as the base: what its adapters learnt becomes part of its weights.

    Raises:
        IntegrityError: a file is damaged.
    """
    model = build_model(exported.folder)
    merge_lora(model)
    tensors = {name: np.array(tensor) for name, tensor in tensors_of(model).items()}
    spec = model.spec
    stored = exported.folder / "parity.json"
    head = {name: tensor for name, tensor in tensors.items() if spec.kind.head is not None and name.startswith(f"{HEAD}.")}
    return Base(
        graph=load_own_graph(exported.folder / GRAPH_FILE),
        tensors={name: tensor for name, tensor in tensors.items() if name not in head},
        width=spec.hidden_size,
        fixed=spec.fixed_shape,
        longest=None if spec.fixed_shape is None else spec.fixed_shape[1],
        parity={**(json.loads(stored.read_bytes()) if stored.is_file() else {}), "base": str(ref)},
        task=spec.kind.base,
        head=head,
        head_task=spec.task,
        head_labels=list(spec.labels),
    )
