"""``ts4s predict``: a registered model over rows of any number."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import DataError, ParityError, Ts4sError, UnsupportedModelError
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.spec import ModelSpec
from ts4s_core.prediction.facts import PredictionFacts
from ts4s_core.prediction.options import Embeddings, PredictOptions
from ts4s_core.prediction.output import ArtifactTarget, ReadPredictions, Sink, Target, open_target
from ts4s_core.prediction.predict_split import InferenceSpec, PredictSplit, Runtime
from ts4s_core.prediction.result_table import Layout
from ts4s_core.prediction.runners import onnx_runner, torch_runner
from ts4s_core.prediction.source_rows import TextSource, open_texts
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.kind import load

STAGE = "predict"
#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)
#: What it loads of the task's kind.
FACETS = ("head", "head_nodes", "predictions")
#: ONNX Runtime against PyTorch before a job: a mistake shows as 1e-2 and more, FP32 rounding stays far below.
TOLERANCE = 1e-4
_LOG = logging.getLogger(__name__)


def predict(
    settings: Settings,
    store: ArtifactStore,
    engine: DataEngine,
    *,
    model: ArtifactRef,
    options: PredictOptions,
    slots: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Predict every row of ``settings.data`` with a trained model, in a stream: memory does not grow with the rows.

    Args:
        settings: groups ``data``, ``storage``, and ``train.threads_per_worker`` (threads of a task).
        store: holds the model.
        engine: runs the splits of the source.
        model: a ``trained`` version.
        options: what is asked for.
        slots: tasks that the engine runs at once.
        progress: called with the splits done.

    Returns:
        ``rows``, ``errors`` (rows that are marked), ``rows_per_s``, ``output``, and ``artifact``, ``seconds``, ``runtime``,
        ``model``.

    Raises:
        SettingsError: an option is not valid, or the output already exists.
        ConflictError: there is a table of that name.
        SourceError: the data cannot be found or read.
        DataError: a column is missing, the model is a language model, or a row is refused.
        IntegrityError: a file of the model is damaged.
    """
    if options.table:
        engine.check_new_table(options.table)
    target = _target(settings, store, model=model, options=options)
    source = open_texts(settings.data, settings.storage, engine, slots=slots)
    opened = ModelFolder(store.local(model))
    spec = opened.spec
    check_predicts(spec, model)
    progress(STAGE, {"doing": "check the model"})
    runtime = checked_runtime(opened, embeddings=options.embeddings)
    output: Any = "logits" if options.embeddings == "none" else options.embeddings
    inference = InferenceSpec(store.storage.settings, str(model), output, runtime, settings.train.threads_per_worker)
    layout = layout_of(spec, model, embeddings=options.embeddings, has_id=bool(source.id_column))
    try:
        sink = target.begin()
        job = PredictSplit(inference, source.without_splits(), layout, sink, options.errors, options.form == "vectors")
        found = _run(engine, job, source, progress=progress)
        if not found["files"]:
            found["files"].append(_empty(layout, sink, vectors=job.vectors))
        facts = PredictionFacts(
            rows=found["rows"],
            errors=found["errors"],
            rows_per_s=round(found["rows"] / max(found["seconds"], 1e-9), 2),
            seconds=round(found["seconds"], 3),
            model=str(model),
            runtime=inference.runtime,
            labels=list(layout.labels),
        )
        target.finish(found["files"], facts)
    except BaseException:
        target.abandon()
        raise
    artifact = target.ref if isinstance(target, ArtifactTarget) else None
    if options.table and artifact:
        progress(STAGE, {"doing": f"write the table {options.table}"})
        read = ReadPredictions(store.storage.settings, artifact)
        engine.write_table(options.table, [str(entry["path"]) for entry in found["files"]], read, layout.schema)
    shown = {name: value for name, value in facts.shown().items() if name != "labels"}
    return {**shown, "output": options.output if options.table else target.uri, "artifact": artifact}


def layout_of(spec: ModelSpec, model: ArtifactRef, *, embeddings: str, has_id: bool) -> Layout:
    """The columns of a model's predictions.

    Raises:
        DataError: rows are not predicted with this kind of model.
    """
    make = load(check_predicts(spec, model))
    layout: Layout = make(spec, version=model.version, embeddings=embeddings != "none", has_id=has_id)
    return layout


def check_predicts(spec: ModelSpec, model: ArtifactRef) -> str:
    """The facet that says the columns of a model's predictions.

    Raises:
        DataError: rows are not predicted with this kind of model.
    """
    kind = spec.kind
    if kind.predictions is None:
        raise DataError(f"Prediction with {model}: expected a classifier, got {kind.noun}. Use {kind.use}")
    return kind.predictions


def _target(settings: Settings, store: ArtifactStore, *, model: ArtifactRef, options: PredictOptions) -> Target:
    if not options.sealed:
        return open_target(options.output, settings.storage)
    relevant = {
        "data": settings.data.model_dump(mode="json", include={"source", "format", "text_column", "id_column"}),
        "errors": options.errors,
        "embeddings": options.embeddings,
        "form": options.form,
    }
    own = ModelSpec.read(store.local(model)).kind.facets(*FACETS)
    inputs = {"trained": store.manifest(model).content_sha256}
    key = step_key("predictions", entries=(*ENTRIES, *own), inputs=inputs, settings=relevant)
    return ArtifactTarget(store, trained=model, key=key, settings=relevant)


def _run(engine: DataEngine, job: PredictSplit, source: TextSource, *, progress: Progress) -> dict[str, Any]:
    splits = len(source.splits)
    progress(STAGE, {"split": 0, "splits": splits})
    began = time.perf_counter()

    def on_done(done: int) -> None:
        progress(STAGE, {"split": done, "splits": splits, "seconds_left": _left(began, done, splits)})

    results = engine.map(job, list(source.splits), stage=STAGE, on_done=on_done)
    rows, errors = (sum(result[name] for result in results) for name in ("rows", "errors"))
    seconds = time.perf_counter() - began
    progress(STAGE, {"split": splits, "splits": splits, "rows_per_s": round(rows / seconds, 1)})
    files = [entry for result in results for entry in result["files"]]
    return {"rows": rows, "errors": errors, "files": files, "seconds": seconds}


def _left(began: float, done: int, splits: int) -> float | None:
    return round((time.perf_counter() - began) / done * (splits - done), 1) if done else None


def _empty(layout: Layout, sink: Sink, *, vectors: bool) -> dict[str, Any]:
    """A file without rows: a reader finds the columns."""
    with tempfile.TemporaryDirectory(prefix="ts4s-predict-") as folder:
        path = Path(folder) / ("part-00000.txt" if vectors else "part-00000.parquet")
        if vectors:
            path.touch()
        else:
            RowGroupWriter(path, layout.schema).close()
        return sink.put(path, path.name)


def checked_runtime(opened: ModelFolder, *, embeddings: Embeddings = "none") -> Runtime:
    """ONNX Runtime, if it computes what PyTorch does with this model; else PyTorch, which is slower."""
    from ts4s_core.onnx.importing.parity import Ranges, batches, largest_difference

    spec = opened.spec
    output: Any = "logits" if embeddings == "none" else embeddings
    ranges = Ranges(vocab_size=spec.vocab_size, pad_id=spec.pad_id, max_length=spec.max_length, fixed=spec.fixed_shape)
    try:
        fast = onnx_runner(opened, threads=1, output=output)
        slow = torch_runner(opened, threads=os.cpu_count() or 1, output=output)
        for batch in batches(ranges):
            worst = largest_difference(fast(*batch.arrays), slow(*batch.arrays))
            if not worst <= TOLERANCE:
                raise ParityError(f"expected values within {TOLERANCE:g}, got a difference of {worst:.3g}")
    except (UnsupportedModelError, ParityError) as exc:
        _LOG.warning("PyTorch runs the model, because ONNX Runtime does not compute the same: %s", exc)
        return "torch"
    except Ts4sError:
        raise
    except Exception as exc:  # ONNX Runtime's exceptions have no common base below Exception
        _LOG.warning("PyTorch runs the model, because ONNX Runtime does not take it: %s", exc)
        return "torch"
    return "onnxruntime"
