"""The jobs of the driver program: each calls the core function of a step, on Spark or, with spark.master none, without it.

A job is JSON: ``{"job": NAME, "settings": Settings.plain(), ...}``; so is its result. Secrets are in neither.
"""

from __future__ import annotations

import base64
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ts4s_core.errors import SettingsError
from ts4s_core.progress import Progress
from ts4s_core.spark.driver.place import Place

if TYPE_CHECKING:
    from ts4s_core.artifacts.steps import StepResult
    from ts4s_core.artifacts.versions.refs import ArtifactRef

Job = Mapping[str, Any]
Result = dict[str, Any]


def run_job(job: Job, *, place: Place, progress: Progress) -> Result:
    """Run one job.

    Raises:
        SettingsError: if there is no such job.
        Ts4sError: what the step raises.
    """
    run = JOBS.get(str(job.get("job")))
    if run is None:
        raise SettingsError(f"job {job.get('job')!r} is not one of {', '.join(sorted(JOBS))}")
    place.progress = progress
    return run(job, place, progress)


def _warm_up(_job: Job, place: Place, _progress: Progress) -> Result:
    """Start what the next jobs need, while the parent does other work."""
    if place.has_spark:
        place.session()
    return {}


def _echo(job: Job, place: Place, progress: Progress) -> Result:
    """Send ``items`` through the tasks of a Spark job and back: shows that master, Python and the shipped code work."""
    items = [str(item) for item in job.get("items", [])]
    progress("echo", {"item": 0, "items": len(items)})
    if place.has_spark and items:
        context = place.session().sparkContext
        items = context.parallelize(items, len(items)).map(_folded).collect()
    return {"items": items}


def _folded(text: str) -> str:
    errors = importlib.import_module("ts4s_core.errors")  # the executor's own copy
    return str(errors.one_line(text))


def _scan(job: Job, place: Place, progress: Progress) -> Result:
    """Read all of the data once; nothing is written."""
    if place.settings.model.task == "language-model":
        return _scan_text(job, place, progress)
    found = place.scan(again=True)
    progress("scan", {"rows": found.rows, "labels": len(found.labels), "bad_rows": found.bad_rows})
    return {
        "rows": found.rows,
        "labels": list(found.labels),
        "sides": found.sides,
        "label_rows": found.label_rows,
        "bad_rows": found.bad_rows,
        "blank_lines": found.blank_lines,
        "fingerprint": found.fingerprint,
    }


def _scan_text(job: Job, place: Place, progress: Progress) -> Result:
    """Read all of a text once and train its tokenizer, if none is given; nothing is written."""
    found = place.scan_text(_tokenizer(job), again=True)
    sides = {name: counts.blocks for name, counts in found.sides.items()}
    size = {name: counts.size for name, counts in found.sides.items()}
    progress("scan", {"bytes": sum(size.values()), "blocks": sum(sides.values()), "bad_rows": found.bad_rows})
    return {
        "rows": sum(sides.values()),
        "labels": [],
        "sides": sides,
        "bytes": size,
        "lines": found.lines,
        "bad_rows": found.bad_rows,
        "fingerprint": found.fingerprint,
    }


def _tokenizer(job: Job) -> dict[str, bytes] | None:
    """The files that travel with a job, in base64."""
    files = job.get("tokenizer")
    return None if files is None else {name: base64.b64decode(data) for name, data in files.items()}


def _prepare_text(job: Job, place: Place, progress: Progress) -> Result:
    """The dataset artifact of a language model."""
    from ts4s_core.data.corpus.prepare import prepare_text

    found = place.scan_text(_tokenizer(job), again=False)
    place.scanned_text = None  # should the text have changed, the next try looks again
    return prepare_text(place.settings, place.store(), place.engine(), scan=found, progress=progress).to_json()


def _prepare(job: Job, place: Place, progress: Progress) -> Result:
    """The dataset artifact, tokenised as the ``onnx`` (or ``model``) artifact's tokenizer does."""
    if place.settings.model.task == "language-model":
        return _prepare_text(job, place, progress)
    from ts4s_core.data.prepare import prepare_dataset

    store, onnx = place.store(), _ref(job, "onnx")
    found = place.scan(again=False)
    place.scanned = None  # should the rows have changed, the next try looks again
    return prepare_dataset(
        place.settings,
        store,
        place.engine(),
        scan=found,
        tokenizer_folder=store.local(onnx) / "tokenizer",
        upstream={"onnx": onnx},
        progress=progress,
    ).to_json()


def _train(job: Job, place: Place, progress: Progress) -> Result:
    """The trained artifact of a ``dataset`` and a ``model``."""
    from ts4s_core.training.driver.train_step import train

    return train(
        place.settings,
        place.store(),
        place.launcher(),
        dataset=_ref(job, "dataset"),
        model=_ref(job, "model"),
        progress=progress,
    ).to_json()


def _evaluate(job: Job, place: Place, progress: Progress) -> Result:
    """The report on a ``trained`` version over a ``dataset``, against the ``champion`` if there is one.

    That of a language model shows what the model holds likely after each of the ``prompts``.
    """
    store, dataset = place.store(), _ref(job, "dataset")
    step: Callable[..., StepResult]
    if store.manifest(dataset).facts.get("task") == "language-model":
        from ts4s_core.evaluation.steps.language_model import evaluate_language

        step = functools.partial(evaluate_language, prompts=job.get("prompts") or ())
    else:
        from ts4s_core.evaluation.steps.classifier import evaluate as step
    return step(
        place.settings,
        store,
        place.engine(),
        trained=_ref(job, "trained"),
        dataset=dataset,
        champion=_ref(job, "champion") if job.get("champion") else None,
        step_seconds=job.get("step_seconds"),
        progress=progress,
    ).to_json()


def _compare(job: Job, place: Place, progress: Progress) -> Result:
    """Metrics of two ``trained`` versions, ``first`` and ``second``, on the test side of a ``dataset``; nothing is written."""
    from ts4s_core.evaluation.gate.compare_versions import compare_versions

    return compare_versions(
        place.store(),
        place.engine(),
        first=_ref(job, "first"),
        second=_ref(job, "second"),
        dataset=_ref(job, "dataset"),
        threads=place.settings.train.threads_per_worker,
        progress=progress,
    )


def _predict(job: Job, place: Place, progress: Progress) -> Result:
    """What a ``trained`` version answers to every row of the source, written as the ``options`` say."""
    from ts4s_core.prediction.job import PredictOptions, predict

    return predict(
        place.settings,
        place.store(),
        place.engine(),
        model=_ref(job, "trained"),
        options=PredictOptions.of(job.get("options") or {}),
        slots=place.slots(),
        progress=progress,
    )


def _ref(job: Job, role: str) -> ArtifactRef:
    from ts4s_core.artifacts.versions.refs import ArtifactRef

    text = job.get(role)
    if not isinstance(text, str):
        raise SettingsError(f"job {job.get('job')}: expected {role} as KIND/NAME/VERSION, got {text!r}")
    return ArtifactRef.parse(text)


JOBS: dict[str, Callable[[Job, Place, Progress], Result]] = {
    "warm-up": _warm_up,
    "echo": _echo,
    "scan": _scan,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "predict": _predict,
}
