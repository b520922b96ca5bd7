"""The import step: an ONNX artifact and the labels become a model that can be trained."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.keys import step_key
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.errors import SettingsError, Ts4sError
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.writer import ArtifactWriter
    from ts4s_core.onnx.graph import Array, Graph
    from ts4s_core.onnx.parity import Original
    from ts4s_core.onnx.sources import ModelSource

STEP = "import"
STAGES = 3
#: Where families keep their dropout on hidden states.
DROPOUT_KEYS = ("hidden_dropout_prob", "dropout", "resid_pdrop")
DEFAULT_DROPOUT = 0.1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """What a new model starts from.

    Attributes:
        graph: rewritten, without head, dropout and adapters.
        tensors: its weights.
        head: weights of a head that is kept; empty: a new one.
        fixed: batch and length of a graph that takes no other.
        longest: length that a fixed graph was exported for.
        parity: figures of the gate.
    """

    graph: Graph
    tensors: dict[str, Array]
    head: dict[str, Array]
    fixed: tuple[int, int] | None
    longest: int | None
    parity: dict[str, Any]


def import_model(
    settings: Settings,
    store: ArtifactStore,
    *,
    onnx_ref: ArtifactRef,
    classes: int,
    label_names: Sequence[str] | None,
    source: ModelSource | None = None,
    progress: Progress = silent,
) -> StepResult:
    """Make a trainable model of an exported one, or find the artifact that was made of it before.

    Args:
        settings: groups ``model`` and ``train.seed``, and ``reuse``.
        store: where to look and to write.
        onnx_ref: an ``onnx`` artifact, or a ``trained`` one, whose head is kept if it is for the same labels.
        classes: number of classes; 0 for a language model.
        label_names: their names in the order of the logits; None: numbers.
        source: what ``resolve_source`` gave, for the parity gate; None: what the settings name is looked up.
        progress: called as the step goes on.

    Raises:
        SettingsError: the number of classes does not fit the labels or the task, or nothing would be trained.
        UnsupportedModelError: naming the opset, the node or the shape that is not taken.
        ParityError: the import does not compute what the original computes.
    """
    labels = _labels(settings, classes, label_names)
    model = settings.model
    bearing = {
        **model.model_dump(mode="json", include={"task", "max_length", "dropout", "attention_dropout"}),
        **model.model_dump(mode="json", include={"freeze_encoder", "lora_rank", "lora_alpha"}),
        "labels": labels,
        "seed": settings.train.seed,
    }
    return run_step(
        store,
        kind="model",
        name=settings.name,
        key=step_key("model", inputs={"onnx": store.manifest(onnx_ref).content_sha256}, settings=bearing),
        settings=bearing,
        upstream={"onnx": onnx_ref},
        reuse=settings.reuse,
        build=lambda writer: _Import(settings, store, onnx_ref, labels=labels, source=source, progress=progress).write(writer),
    )


def _labels(settings: Settings, classes: int, names: Sequence[str] | None) -> list[str]:
    task = settings.model.task
    if task == "language-model":
        if classes or names:
            raise SettingsError(f"model.task language-model has no classes: expected 0, got {classes or len(names or ())}. Use 0")
        return []
    labels = [str(number) for number in range(classes)] if names is None else list(names)
    least = 1 if task == "multi-label" else 2
    if classes != len(labels) or classes < least or len(set(labels)) != classes:
        raise SettingsError(
            f"model.classes of task {task}: expected at least {least} classes, each with a name of its own, got {classes} classes "
            f"and {len(set(labels))} names. Use 0 to take them from the data"
        )
    return labels


class _Import:
    """One run of the step."""

    def __init__(
        self,
        settings: Settings,
        store: ArtifactStore,
        ref: ArtifactRef,
        *,
        labels: list[str],
        source: ModelSource | None,
        progress: Progress,
    ) -> None:
        self.settings, self.store, self.ref = settings, store, ref
        self.labels, self.source, self.progress = labels, source, progress
        self.folder = store.local(ref)
        config = self.folder / "config.json"
        self.config: dict[str, Any] = json.loads(config.read_bytes()) if config.is_file() else {}

    def write(self, writer: ArtifactWriter) -> None:
        """Build, check, and write the files."""
        from ts4s_core.onnx.importer import put_tensors
        from ts4s_core.onnx.model import compose, tensors_of
        from ts4s_core.onnx.model_spec import GRAPH_FILE, SPEC_FILE, WEIGHTS_FILE
        from ts4s_core.onnx.weights import save_weights, weights_sha256

        self.progress(STEP, {"stage": 1, "stages": STAGES, "doing": "convert"})
        base = self._from_onnx() if self.ref.kind == "onnx" else self._from_model()
        spec = self._spec(base)
        self.progress(STEP, {"stage": 3, "stages": STAGES, "doing": "store"})
        model = compose(base.graph, spec)
        put_tensors(model, {**base.tensors, **self._new_tensors(model, spec.hidden_size), **base.head})
        writer.add_bytes(GRAPH_FILE, base.graph.to_model().SerializeToString(deterministic=True))
        with tempfile.TemporaryDirectory(prefix="ts4s-import-") as temporary:
            save_weights(Path(temporary) / WEIGHTS_FILE, tensors_of(model))
            writer.add_file(Path(temporary) / WEIGHTS_FILE, WEIGHTS_FILE)
        writer.add_json(SPEC_FILE, spec.to_json())
        writer.add_json("parity.json", base.parity, identity=False)
        if self.config:
            writer.add_json("config.json", self.config)
        if (self.folder / "tokenizer").is_dir():
            writer.add_folder(self.folder / "tokenizer", "tokenizer")
        trained = model.trained_tensors()
        writer.facts.update(
            task=spec.task,
            classes=spec.classes,
            parameters={
                "total": sum(parameter.numel() for parameter in model.parameters()),
                "trainable": sum(tensor.size for tensor in trained.values()),
            },
            parity=base.parity,
            head="kept" if base.head else "new",
            weights_sha256=weights_sha256(trained),
        )

    def _from_onnx(self) -> Base:
        from ts4s_core.onnx.importer import assemble, put_tensors
        from ts4s_core.onnx.parity import Ranges, parity_gate, takes_other_shapes
        from ts4s_core.onnx.rewrite import rewrite

        names = json.loads((self.folder / "names.json").read_bytes())
        path = self.folder / "model.onnx"
        rewritten = rewrite(path, names if names.get("parameters") else None)
        module = assemble(rewritten.graph)
        put_tensors(module, rewritten.tensors)
        fixed = rewritten.fixed
        if fixed is not None and takes_other_shapes(module, fixed):
            fixed = None
        module.fixed = fixed
        self.progress(STEP, {"stage": 2, "stages": STAGES, "doing": "parity"})
        ranges = Ranges(
            vocab_size=self._vocab_size(rewritten.graph),
            pad_id=self._pad_id(),
            max_length=self._longest(),
            fixed=rewritten.fixed,
        )
        original = self._original(names)
        figures = parity_gate(module, onnx_path=path, original=original, ranges=ranges)
        longest = rewritten.fixed[1] if rewritten.fixed else None
        return Base(rewritten.graph, rewritten.tensors, {}, fixed, longest, figures)

    def _original(self, names: dict[str, Any]) -> Original | None:
        """The module that the artifact was exported from, if the settings still name it."""
        from ts4s_core.onnx.parity import Original
        from ts4s_core.onnx.sources import resolve_source

        source = self.source
        if source is None:
            try:
                source = resolve_source(self.settings.model, self.store, seed=self.settings.train.seed)
            except Ts4sError as exc:
                _LOG.warning("no original to compare %s with: %s", self.ref, exc)
                return None
        if source.kind in ("onnx", "registry") or source.identity != names.get("source", {}).get("identity"):
            _LOG.warning("no original to compare %s with: model.source is no module, or another one", self.ref)
            return None
        return Original(source.load()[0])

    def _from_model(self) -> Base:
        """A model of ours as the base: its adapters become part of its weights, its head stays if the labels are the same."""
        import numpy as np
        import onnx

        from ts4s_core.onnx.graph import graph_of
        from ts4s_core.onnx.heads import HEAD
        from ts4s_core.onnx.lora import merge_lora
        from ts4s_core.onnx.model import build_model, tensors_of
        from ts4s_core.onnx.model_spec import GRAPH_FILE

        model = build_model(self.folder)
        spec = model.spec
        merge_lora(model)
        tensors = {name: np.array(tensor) for name, tensor in tensors_of(model).items()}
        same_output = (spec.task == "language-model") == (self.settings.model.task == "language-model")
        if not same_output:
            raise SettingsError(
                f"model.task {self.settings.model.task} for base {self.ref}: expected the base's own kind, got one of task {spec.task}. "
                "Use another model.source or model.task"
            )
        kept = list(spec.labels) == self.labels and spec.task == self.settings.model.task
        head = {name: tensor for name, tensor in tensors.items() if kept and name.startswith(f"{HEAD}.")}
        graph = graph_of(onnx.load(str(self.folder / GRAPH_FILE), load_external_data=False))
        stored = self.folder / "parity.json"
        figures = json.loads(stored.read_bytes()) if stored.is_file() else {}
        longest = spec.fixed_shape[1] if spec.fixed_shape else None
        return Base(graph, tensors, head, spec.fixed_shape, longest, {**figures, "base": str(self.ref)})

    def _spec(self, base: Base) -> Any:
        from ts4s_core.onnx.importer import assemble, put_tensors
        from ts4s_core.onnx.model_spec import ModelSpec
        from ts4s_core.onnx.parity import output_width

        model = self.settings.model
        if base.longest is not None and model.max_length > base.longest:
            raise SettingsError(
                f"model.max_length {model.max_length} is longer than the graph takes: expected at most {base.longest}, the length it "
                "was exported for. Lower it"
            )
        plain = assemble(base.graph)
        put_tensors(plain, base.tensors)
        plain.fixed = base.fixed
        return ModelSpec(
            task=model.task,
            labels=tuple(self.labels),
            hidden_size=output_width(plain),
            dropout=self._dropout(),
            attention_dropout=model.attention_dropout,
            freeze_encoder=model.freeze_encoder,
            lora_rank=model.lora_rank,
            lora_alpha=model.lora_alpha,
            max_length=model.max_length,
            pad_id=self._pad_id(),
            vocab_size=self._vocab_size(base.graph),
            fixed_shape=base.fixed,
            parameters=tuple(name for name, _parameter in plain.named_parameters()),
            tied=self._tied(),
        )

    def _new_tensors(self, model: Any, hidden_size: int) -> dict[str, Array]:
        from ts4s_core.onnx.heads import initial_head
        from ts4s_core.onnx.lora import initial_lora

        seed = self.settings.train.seed
        tensors = initial_head(hidden_size, len(self.labels), seed=seed) if self.labels else {}
        return {**tensors, **(initial_lora(model, seed=seed) if self.settings.model.lora_rank else {})}

    def _dropout(self) -> float:
        given = self.settings.model.dropout
        if given is not None:
            return given
        return next((float(self.config[key]) for key in DROPOUT_KEYS if self.config.get(key) is not None), DEFAULT_DROPOUT)

    def _tied(self) -> dict[str, str]:
        names = self.folder / "names.json"
        if names.is_file():
            return dict(json.loads(names.read_bytes()).get("tied") or {})
        from ts4s_core.onnx.model_spec import ModelSpec

        return dict(ModelSpec.read(self.folder).tied)

    def _pad_id(self) -> int:
        """Of the configuration, else the tokenizer's, else 0."""
        found = self.config.get("pad_token_id")
        if isinstance(found, int):
            return found
        tokenizer = self.folder / "tokenizer" / "tokenizer.json"
        if tokenizer.is_file():
            record = json.loads(tokenizer.read_bytes())
            added = {entry["content"]: entry["id"] for entry in record.get("added_tokens", [])}
            declared = (record.get("padding") or {}).get("pad_id")
            return int(next((value for value in (declared, added.get("<pad>"), added.get("[PAD]")) if value is not None), 0))
        return 0

    def _longest(self) -> int:
        from ts4s_core.onnx.sources import max_positions

        return max_positions(self.config) if self.config else self.settings.model.max_length

    def _vocab_size(self, graph: Graph) -> int:
        rows = [node.attributes["shape"][0] for node in graph.nodes if node.op == "Embedding" and node.inputs == ["input_ids"]]
        return int(rows[0] if rows else self.config.get("vocab_size", 2))
