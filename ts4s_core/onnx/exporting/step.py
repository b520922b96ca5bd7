"""The export step: a base model becomes one sealed ONNX artifact."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.errors import SourceError
from ts4s_core.onnx.facts import OnnxFacts, ParameterCounts, Summary
from ts4s_core.onnx.graph.protos import opset_of
from ts4s_core.onnx.sources.resolve import ModelSource, resolve_source
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings

if TYPE_CHECKING:
    import onnx

    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.writer import ArtifactWriter

STEP = "export"
#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
STAGES = 3


def export_model(
    settings: Settings, store: ArtifactStore, *, source: ModelSource | None = None, progress: Progress = silent
) -> StepResult:
    """Export the base model that the settings name, or find the artifact that was made of it before.

    The artifact depends on the source's content and the code alone: one base is stored once for all heads and all runs.
    A trained model of the registry is not exported again: it is returned itself, graph and weights are in it.

    Args:
        settings: groups ``model`` and ``train.seed`` (random weights), and ``reuse``.
        store: where to look and to write.
        source: what :func:`resolve_source` gave, if it was called before.
        progress: called as the step goes on.

    Raises:
        SourceError, UnsupportedModelError: as :func:`resolve_source`; nothing was written.
        ParityError: if ONNX Runtime does not compute what the module computes.
    """
    from ts4s_core.onnx.exporting.export_graph import OPSET

    if source is None:
        source = resolve_source(settings.model, store, seed=settings.train.seed)
    if source.ref is not None:
        return StepResult(source.ref, True, 0.0, store.manifest(source.ref).facts)
    build = _store_file if source.kind == "onnx" else _export
    return run_step(
        store,
        kind="onnx",
        name=source.slug,
        key=step_key("onnx", entries=ENTRIES, inputs={"source": source.identity}, settings={"opset": OPSET, "task": source.task}),
        settings={"model": {"source": settings.model.source, "tokenizer": settings.model.tokenizer, "task": settings.model.task}},
        upstream={},
        reuse=settings.reuse,
        build=lambda writer: build(writer, source, progress),
    )


def export_to_file(
    settings: Settings, store: ArtifactStore, target: Path, *, source: ModelSource | None = None, progress: Progress = silent
) -> StepResult:
    """Export as :func:`export_model` does, and write the graph to a plain file too.

    Args:
        settings: as for :func:`export_model`.
        store: as for :func:`export_model`.
        target: a path that ends in ``.onnx``.
        source: what :func:`resolve_source` gave, if it was called before.
        progress: called as the step goes on.

    Raises:
        SourceError: if the place cannot be written to (nothing was written anywhere), or the source is of the registry.
    """
    from ts4s_core.onnx.exporting.export_graph import MODEL_FILE, check_target, write_plain

    check_target(target)
    if source is None:
        source = resolve_source(settings.model, store, seed=settings.train.seed)
    if source.ref is not None:
        raise SourceError(
            f"--to {target} does not go with model.source {settings.model.source}: "
            "a trained model is no base model. Use ts4s models export"
        )
    result = export_model(settings, store, source=source, progress=progress)
    write_plain(store.local(result.ref) / MODEL_FILE, target)
    return result


def _export(writer: ArtifactWriter, source: ModelSource, progress: Progress) -> None:
    from ts4s_core.onnx.exporting.export_graph import INPUTS, MODEL_FILE, OUTPUT, check_graph, export_graph, write_graph
    from ts4s_core.onnx.exporting.summary import summarise

    progress(STEP, {"stage": 1, "stages": STAGES, "doing": "load"})
    module, config = source.load()
    progress(STEP, {"stage": 2, "stages": STAGES, "doing": "trace"})
    graph = export_graph(module, task=source.task, max_positions=source.max_positions)
    with tempfile.TemporaryDirectory(prefix="ts4s-export-") as temporary:
        folder = Path(temporary)
        write_graph(graph, folder)
        progress(STEP, {"stage": 3, "stages": STAGES, "doing": "check"})
        difference = check_graph(folder / MODEL_FILE, module, task=source.task)
        writer.add_folder(folder)
    names = _names(source, INPUTS, [OUTPUT[source.task]], graph.names.to_json())
    _add_descriptions(writer, source, names=names, summary=summarise(module, config), difference=difference)


def _store_file(writer: ArtifactWriter, source: ModelSource, progress: Progress) -> None:
    from ts4s_core.onnx.exporting.export_graph import DATA_FILE, MODEL_FILE
    from ts4s_core.onnx.sources.onnx_file import read_onnx_file

    if source.path is None:
        raise SourceError(f"Source {source.slug} has no file: expected an ONNX file")
    progress(STEP, {"stage": 1, "stages": STAGES, "doing": "check"})
    model, external = read_onnx_file(source.path, source=source.slug)
    progress(STEP, {"stage": 3, "stages": STAGES, "doing": "store"})
    if external:
        import onnx_ir

        with tempfile.TemporaryDirectory(prefix="ts4s-export-") as temporary:  # under the names that every artifact has
            onnx_ir.save(onnx_ir.load(source.path), Path(temporary) / MODEL_FILE, external_data=DATA_FILE)
            writer.add_folder(Path(temporary))
    else:
        writer.add_file(source.path, MODEL_FILE)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in held]
    names = _names(source, inputs, [value.name for value in model.graph.output], {"parameters": None, "tied": {}, "unused": []})
    names["opset"] = opset_of(model)
    _add_descriptions(
        writer, source, names=names, summary=Summary(family="onnx", parameters=ParameterCounts(total=_weights(model)))
    )


def _names(source: ModelSource, inputs: Iterable[str], outputs: Iterable[str], mapped: dict[str, Any]) -> dict[str, Any]:
    from ts4s_core.onnx.exporting.export_graph import OPSET

    described = {"identity": source.identity, "family": source.config.get("model_type")}
    return {"task": source.task, "inputs": list(inputs), "outputs": list(outputs), **mapped, "opset": OPSET, "source": described}


def _add_descriptions(
    writer: ArtifactWriter, source: ModelSource, *, names: dict[str, Any], summary: Summary, difference: float | None = None
) -> None:
    writer.add_json("names.json", names)
    if source.config:
        writer.add_json("config.json", source.config)
    for name, data in sorted(source.tokenizer.items()):
        writer.add_bytes(f"tokenizer/{name}", data)
    writer.add_json("summary.json", summary.to_json())
    facts = OnnxFacts(task=source.task, opset=names["opset"], summary=summary, onnxruntime_difference=difference)
    writer.facts = facts.to_json()


def _weights(model: onnx.ModelProto) -> int:
    """Elements of all floating-point initializers."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in floats)
