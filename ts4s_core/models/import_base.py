"""What an import starts from: an ONNX artifact, compared with its original, or a model that ts4s trained."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import Ts4sError
from ts4s_core.models.heads import HEAD
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.graph.failures import graph_failures
from ts4s_core.onnx.graph.graph import Array, Graph
from ts4s_core.onnx.importing.importer import assemble, put_tensors
from ts4s_core.onnx.importing.parity import Original, Ranges, output_width, parity_gate, takes_other_shapes
from ts4s_core.onnx.importing.sizes import check_sizes, token_rows
from ts4s_core.onnx.rewriting.rewrite import rewrite
from ts4s_core.onnx.sources.resolve import ModelSource, max_positions, resolve_source
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.kind import BaseTask

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore

#: Where families keep their dropout on hidden states.
DROPOUT_KEYS = ("hidden_dropout_prob", "dropout", "resid_pdrop")
DEFAULT_DROPOUT = 0.1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImportedBase:
    """What a new model starts from.

    Attributes:
        graph: rewritten, without head, dropout and adapters.
        tensors: its weights by name, in the graph's order.
        width: size of the last axis of its output.
        fixed: batch and length of a graph that takes no other.
        longest: length that a graph of one shape was exported for.
        parity: figures of the gate.
        task: what its output is for.
        head: weights of the head that a trained model has.
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


def dropout_of(exported: ModelFolder) -> float:
    """Dropout on hidden states that the base was made with."""
    config = exported.config
    return next((float(config[key]) for key in DROPOUT_KEYS if config.get(key) is not None), DEFAULT_DROPOUT)


def tied_of(exported: ModelFolder) -> dict[str, str]:
    """Other names of weights."""
    return dict(exported.names.get("tied") or {}) if exported.is_exported else dict(exported.spec.tied)


def vocab_size_of(exported: ModelFolder, graph: Graph) -> int:
    """Rows of the table that the tokens are looked up in."""
    return token_rows(graph) or int(exported.config.get("vocab_size", 2))


@graph_failures("Import of the graph")
def base_of_onnx(exported: ModelFolder, original: Original | None, *, max_length: int) -> ImportedBase:
    """Rewrite the graph of an ``onnx`` artifact, and compare it.

    Args:
        exported: the artifact.
        original: what it was exported from, if that is there.
        max_length: ``model.max_length``, for a file made elsewhere.

    Raises:
        UnsupportedModelError: naming what is not taken.
        ParityError: naming the tensor that differs.
    """
    path = exported.path / "model.onnx"
    rewritten = rewrite(path, exported.names if exported.names.get("parameters") else None)
    module = assemble(rewritten.graph)
    put_tensors(module, rewritten.tensors)
    one_shape = rewritten.fixed
    fixed = None if one_shape is None or takes_other_shapes(module, one_shape) else one_shape
    module.fixed = fixed
    if not exported.names.get("parameters"):  # a file made elsewhere, whatever stands beside it
        check_sizes(module, rewritten.graph, largest_id=None, length=max_length, source=f"the graph {exported.path.parent.name}")
    ranges = Ranges(
        vocab_size=vocab_size_of(exported, rewritten.graph),
        pad_id=exported.pad_id,
        max_length=max_positions(exported.config) if exported.names.get("parameters") else max_length,
        fixed=one_shape,
    )
    figures = parity_gate(module, onnx_path=path, original=original, ranges=ranges)
    return ImportedBase(
        graph=rewritten.graph,
        tensors=rewritten.tensors,
        width=output_width(module),
        fixed=fixed,
        longest=None if one_shape is None else one_shape[1],
        parity=figures,
        task=exported.names["task"],
    )


def original_of(
    exported: ModelFolder, settings: Settings, *, store: ArtifactStore, source: ModelSource | None
) -> Original | None:
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
def base_of_model(exported: ModelFolder, ref: ArtifactRef) -> ImportedBase:
    """A trained model as the base; its adapters are merged into its weights.

    Raises:
        IntegrityError: a file is damaged.
    """
    tensors = {name: np.array(tensor) for name, tensor in exported.tensors.items()}
    spec = exported.spec
    stored = exported.path / "parity.json"
    head = {name: tensor for name, tensor in tensors.items() if spec.kind.head is not None and name.startswith(f"{HEAD}.")}
    return ImportedBase(
        graph=exported.graph,
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
