"""The jobs of the driver program: each calls the core function of a step, on Spark or, with spark.master none, without it.

A job is JSON: ``{"job": NAME, "settings": Settings.plain(), ...}``; so is its result. Secrets are in neither.
"""

from __future__ import annotations

import importlib
import json
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.errors import SettingsError
from ts4s_core.progress import Progress
from ts4s_core.spark.driver.job import Job, Result, artifact_of, fences_of
from ts4s_core.spark.driver.job_context import JobContext
from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of

if TYPE_CHECKING:
    from ts4s_core.artifacts.steps import StepResult


def run_job(job: Job, *, context: JobContext, progress: Progress) -> Result:
    """Run one job.

    Raises:
        SettingsError: if there is no such job.
        Ts4sError: what the step raises.
    """
    run = JOBS.get(job.job)
    if run is None:
        raise SettingsError(f"job {job.job!r} is not one of {', '.join(sorted(JOBS))}")
    context.progress = progress
    context.fences = fences_of(job)
    if job.held is not None or job.job not in _USE_STORE:
        return run(job, context, progress)
    # The client marked nothing: the job marks the store as in use itself.
    store = context.store()
    with in_use(store, job.job):
        context.fences = tuple(store.storage.fences)
        return run(job, context, progress)


def _warm_up(_job: Job, context: JobContext, _progress: Progress) -> Result:
    """Start what the next jobs need, while the parent does other work."""
    if context.has_spark:
        context.session()
    return {}


def _echo(job: Job, context: JobContext, progress: Progress) -> Result:
    """Send ``items`` through the tasks of a Spark job and back: shows that master, Python and the shipped code work."""
    items = job.items
    progress("echo", {"item": 0, "items": len(items)})
    if context.has_spark and items:
        items = context.engine().map(_folded, items, stage="echo")
    return {"items": items}


def _folded(text: str) -> str:
    errors = importlib.import_module("ts4s_core.errors")  # the executor's own copy
    return str(errors.one_line(text))


def _hosts(_job: Job, context: JobContext, _progress: Progress) -> Result:
    """What the cluster's tasks run on, one record for each kind of host, and what this program has."""
    session = context.session()
    slots = context.slots()
    found = context.engine().map(_host, list(range(min(slots, _MOST_HOSTS))), stage="hosts")
    different = {json.dumps(one, sort_keys=True): one for one in found}
    return {"spark": str(session.version), "slots": slots, "here": _host(0), "hosts": list(different.values())}


def _host(_number: int) -> dict[str, str]:
    environment = importlib.import_module("ts4s_core.artifacts.versions.environment")  # the executor's own copy
    versions: dict[str, str] = environment.library_versions()
    return {"host": socket.gethostname(), "instructions": environment.instruction_set(), **versions}


def _scan(job: Job, context: JobContext, progress: Progress) -> Result:
    """Read all of the data once, as the task's kind of data is read; nothing is written."""
    result: Result = load(kind_of(context.settings.model.task).scan_job)(job, context, progress)
    return result


def _prepare(job: Job, context: JobContext, progress: Progress) -> Result:
    """The dataset artifact of the data."""
    result: Result = load(kind_of(context.settings.model.task).prepare_job)(job, context, progress)
    return result


def _train(job: Job, context: JobContext, progress: Progress) -> Result:
    """The trained artifact of a ``dataset`` and a ``model``."""
    from ts4s_core.training.driver.train_step import train

    return train(
        context.settings,
        context.store(),
        context.launcher(),
        dataset=artifact_of(job, "dataset"),
        model=artifact_of(job, "model"),
        progress=progress,
    ).to_json()


def _evaluate(job: Job, context: JobContext, progress: Progress) -> Result:
    """The report on a ``trained`` version over a ``dataset``, against the ``champion`` if there is one.

    ``inputs`` are what the dataset's kind of task shows besides.
    """
    from ts4s_core.data.facts import DatasetFacts

    store, dataset = context.store(), artifact_of(job, "dataset")
    step: Callable[..., StepResult] = load(kind_of(DatasetFacts.of(store.manifest(dataset)).task).evaluation)
    return step(
        context.settings,
        store,
        context.engine(),
        trained=artifact_of(job, "trained"),
        dataset=dataset,
        champion=artifact_of(job, "champion") if job.champion else None,
        step_seconds=job.step_seconds,
        progress=progress,
        **job.inputs,
    ).to_json()


def _compare(job: Job, context: JobContext, progress: Progress) -> Result:
    """Metrics of two ``trained`` versions, ``first`` and ``second``, on the test side of a ``dataset``; nothing is written."""
    from ts4s_core.evaluation.gate.compare_versions import compare_versions

    return compare_versions(
        context.store(),
        context.engine(),
        first=artifact_of(job, "first"),
        second=artifact_of(job, "second"),
        dataset=artifact_of(job, "dataset"),
        threads=context.settings.train.threads_per_worker,
        progress=progress,
    )


def _predict(job: Job, context: JobContext, progress: Progress) -> Result:
    """What a ``trained`` version answers to every row of the source, written as the ``options`` say."""
    from ts4s_core.prediction.job import predict
    from ts4s_core.prediction.options import PredictOptions

    if context.has_spark:  # what checks the model is imported while the JVM starts
        threading.Thread(target=importlib.import_module, args=("ts4s_core.onnx.importing.parity",), daemon=True).start()
    return predict(
        context.settings,
        context.store(),
        context.engine(),
        model=artifact_of(job, "trained"),
        options=PredictOptions.of(job.options),
        slots=context.slots(),
        progress=progress,
    )


#: Tasks that look at their host: as many as there are slots, so that each executor has some.
_MOST_HOSTS = 256
#: Jobs that read or write versions.
_USE_STORE = ("prepare", "train", "evaluate", "compare", "predict")
JOBS: dict[str, Callable[[Job, JobContext, Progress], Result]] = {
    "warm-up": _warm_up,
    "echo": _echo,
    "hosts": _hosts,
    "scan": _scan,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "predict": _predict,
}
