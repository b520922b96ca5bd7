"""The import step: an ONNX artifact and the labels become a model that can be trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError
from ts4s_core.models.facts import ModelFacts, Parameters
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.writer import ArtifactWriter
    from ts4s_core.models.import_base import ImportedBase
    from ts4s_core.models.model_folder import ModelFolder
    from ts4s_core.models.spec import ModelSpec
    from ts4s_core.models.trainable import TrainableModel
    from ts4s_core.onnx.graph.graph import Array
    from ts4s_core.onnx.sources.resolve import ModelSource

STEP = "import"
#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
STAGES = 3


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
    key_settings = {
        **model.model_dump(mode="json", include={"task", "max_length", "dropout", "attention_dropout"}),
        **model.model_dump(mode="json", include={"freeze_encoder", "lora_rank", "lora_alpha"}),
        "labels": labels,
        "seed": settings.train.seed,
    }
    return run_step(
        store,
        kind="model",
        name=settings.name,
        key=step_key(
            "model",
            entries=(*ENTRIES, *kind_of(model.task).facets("head")),
            inputs={"onnx": store.manifest(onnx_ref).content_sha256},
            settings=key_settings,
        ),
        settings=key_settings,
        upstream={"onnx": onnx_ref},
        reuse=settings.reuse,
        build=lambda writer: _write(writer, settings, _base(settings, store, onnx_ref, source=source, progress=progress), labels),
    )


def _labels(settings: Settings, classes: int, names: Sequence[str] | None) -> list[str]:
    task = settings.model.task
    least = kind_of(task).least_classes
    if not least:
        if classes or names:
            raise SettingsError(f"model.task {task} has no classes: expected 0, got {classes or len(names or ())}. Use 0")
        return []
    labels = [str(number) for number in range(classes)] if names is None else list(names)
    if classes != len(labels) or classes < least or len(set(labels)) != classes:
        raise SettingsError(
            f"model.classes of task {task}: expected at least {least} classes, each with a name of its own, got {classes} "
            f"classes and {len(set(labels))} names. Use 0 to take them from the data"
        )
    return labels


def _base(
    settings: Settings, store: ArtifactStore, ref: ArtifactRef, *, source: ModelSource | None, progress: Progress
) -> tuple[ModelFolder, ImportedBase]:
    from ts4s_core.models.import_base import base_of_model, base_of_onnx, original_of
    from ts4s_core.models.model_folder import ModelFolder

    progress(STEP, {"stage": 1, "stages": STAGES, "doing": "convert"})
    exported = ModelFolder(store.local(ref))
    if ref.kind != "onnx":
        return exported, base_of_model(exported, ref)
    original = original_of(exported, settings, store=store, source=source)
    progress(STEP, {"stage": 2, "stages": STAGES, "doing": "compare"})
    base = base_of_onnx(exported, original, max_length=settings.model.max_length)
    progress(STEP, {"stage": 3, "stages": STAGES, "doing": "store"})
    return exported, base


def _write(writer: ArtifactWriter, settings: Settings, made: tuple[ModelFolder, ImportedBase], labels: list[str]) -> None:
    from ts4s_core.models.graph_model import compose
    from ts4s_core.models.spec import GRAPH_FILE, SPEC_FILE, WEIGHTS_FILE
    from ts4s_core.models.trainable import tensors_of
    from ts4s_core.models.weights import save_weights, weights_sha256
    from ts4s_core.onnx.importing.importer import put_tensors

    exported, base = made
    spec = _spec(settings, exported, base, labels=labels)
    kept = base.head if base.head_labels == labels and base.head_task == spec.task else {}
    model = compose(base.graph, spec)
    put_tensors(model, {**base.tensors, **_new_tensors(settings, model, labels, hidden_size=spec.hidden_size), **kept})
    writer.add_bytes(GRAPH_FILE, base.graph.to_model().SerializeToString(deterministic=True))
    with tempfile.TemporaryDirectory(prefix="ts4s-import-") as temporary:
        save_weights(Path(temporary) / WEIGHTS_FILE, tensors_of(model))
        writer.add_file(Path(temporary) / WEIGHTS_FILE, WEIGHTS_FILE)
    writer.add_json(SPEC_FILE, spec.to_json())
    writer.add_json("parity.json", base.parity, identity=False)
    if exported.config:
        writer.add_json("config.json", exported.config)
    if exported.tokenizer_folder.is_dir():
        writer.add_folder(exported.tokenizer_folder, "tokenizer")
    trained = model.trained_tensors()
    facts = ModelFacts(
        task=spec.task,
        classes=spec.classes,
        parameters=Parameters(
            total=sum(parameter.numel() for parameter in model.parameters()),
            trainable=sum(tensor.size for tensor in trained.values()),
        ),
        parity=base.parity,
        head="none" if spec.kind.head is None else "kept" if kept else "new",
        weights_sha256=weights_sha256(trained),
    )
    writer.facts = facts.to_json()


def _spec(settings: Settings, exported: ModelFolder, base: ImportedBase, *, labels: list[str]) -> ModelSpec:
    from ts4s_core.models.import_base import dropout_of, tied_of, vocab_size_of
    from ts4s_core.models.spec import ModelSpec

    model = settings.model
    if base.task != kind_of(model.task).base:
        raise SettingsError(
            f"model.task {model.task} does not go with this base: expected a graph for it, got one "
            f"{'with' if base.task == 'causal-lm' else 'without'} a language model's head. Use another model.source or model.task"
        )
    if base.longest is not None and model.max_length > base.longest:
        raise SettingsError(
            f"model.max_length {model.max_length} is longer than the graph takes: expected at most {base.longest}, the length "
            "that it was exported for. Lower it"
        )
    return ModelSpec(
        task=model.task,
        labels=tuple(labels),
        hidden_size=base.width,
        dropout=dropout_of(exported) if model.dropout is None else model.dropout,
        attention_dropout=model.attention_dropout,
        freeze_encoder=model.freeze_encoder,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
        max_length=model.max_length,
        pad_id=exported.pad_id,
        vocab_size=vocab_size_of(exported, base.graph),
        fixed_shape=base.fixed,
        parameters=tuple(base.tensors),
        tied=tied_of(exported),
    )


def _new_tensors(settings: Settings, model: TrainableModel, labels: list[str], *, hidden_size: int) -> dict[str, Array]:
    from ts4s_core.models.lora import initial_lora

    seed, head_facet = settings.train.seed, model.spec.kind.head
    head = {} if head_facet is None else load(head_facet).initial(hidden_size, len(labels), seed=seed)
    return {**head, **(initial_lora(model, seed=seed) if settings.model.lora_rank else {})}
