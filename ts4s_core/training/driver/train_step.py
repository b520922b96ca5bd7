"""The training step on the driver: attempts, resumption, and the sealed result."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.errors import Ts4sError
from ts4s_core.host_user import expanded
from ts4s_core.models.facts import ModelFacts
from ts4s_core.progress import Progress, silent
from ts4s_core.retries import retried
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of
from ts4s_core.training.checkpoints.listing import prune
from ts4s_core.training.driver.attempts import Attempts, largest_divisor
from ts4s_core.training.driver.launcher import Launcher
from ts4s_core.training.driver.metrics import Metrics, as_csv, padding_fraction, speed
from ts4s_core.training.driver.statistics import as_text
from ts4s_core.training.facts import TrainedFacts
from ts4s_core.training.job import TrainJob, storage_to_wire
from ts4s_core.training.settings_checks import check_training, step_key_settings
from ts4s_core.training.step_rows import StepRow

log = logging.getLogger(__name__)

#: What every launcher starts, in processes of its own.
WORKER = "ts4s_core.training.worker.worker"
#: What the step loads of the task's kind.
FACETS = ("head", "training_rows", "objective", "class_weights")
#: Files of the model artifact that the trained one has its own of, or that say nothing of it.
_NOT_COPIED = ("model.safetensors", "parity.json")


@dataclass(frozen=True)
class Factories:
    """Factories of the model and the rows, where these are not the artifacts'; see :mod:`ts4s_core.training.worker.assembly`."""

    model: str = TrainJob.model_factory
    rows: str = TrainJob.rows_factory
    extra: Mapping[str, Any] | None = None
    exchange: str = "auto"

    @property
    def entries(self) -> tuple[str, ...]:
        """Where the code of a training begins: on the driver, in a worker, and what makes the model and the rows."""
        return (__name__, WORKER, self.model, self.rows)


def train(
    settings: Settings,
    store: ArtifactStore,
    launcher: Launcher,
    *,
    dataset: ArtifactRef,
    model: ArtifactRef,
    progress: Progress = silent,
    factories: Factories | None = None,
) -> StepResult:
    """Train a model on a dataset; an interrupted run resumes from its last checkpoint.

    Raises:
        InputError: if the settings, the data or the model cannot be trained with.
        NonFiniteError: if a loss or a gradient is not finite.
        WorkerFailedError: if a worker raised the same error twice at the same step.
        WorkerLostError, SparkError, StoreError: if more than ``train.max_restarts`` attempts failed.
    """
    check_training(settings)
    factories = factories or Factories()
    workers = settings.train.workers or largest_divisor(settings.train.logical_shards, at_most=launcher.slots())
    # The model knows what its head is for; a module of one's own has the settings' task.
    task = ModelFacts.of(store.manifest(model)).task or settings.model.task
    key_settings = {
        "train": step_key_settings(settings.train, workers=workers),
        "task": task,
        "class_weights": settings.model.class_weights,
        "factories": {"model": factories.model, "rows": factories.rows, "extra": dict(factories.extra or {})},
    }
    inputs = {"dataset": store.manifest(dataset).content_sha256, "model": store.manifest(model).content_sha256}
    own = kind_of(task).facets(*FACETS)
    key = step_key("trained", entries=(*factories.entries, *own), inputs=inputs, settings=key_settings)

    def build(writer: ArtifactWriter) -> None:
        job = TrainJob(
            name=settings.name,
            key=key,
            dataset=str(dataset),
            model=str(model),
            output=str(writer.ref),
            task=task,
            class_weights=_class_weights(settings, store, dataset),
            train=settings.train.model_dump(mode="json"),
            storage=storage_to_wire(settings.storage),
            model_factory=factories.model,
            rows_factory=factories.rows,
            exchange=factories.exchange,
            ledger=_absolute(settings.train.ledger),
            extra=dict(factories.extra or {}),
            held=[fence.to_json() for fence in store.storage.fences],
        )
        # A run that must not reuse anything begins anew, and goes on from its own checkpoints alone.
        _run_and_seal(writer, store, launcher, job=job, workers=workers, progress=progress, own_only=not settings.reuse)

    with _alone(settings, store, key):
        result = run_step(
            store,
            kind="trained",
            name=settings.name,
            key=key,
            settings=settings.plain(),
            upstream={"dataset": dataset, "model": model},
            reuse=settings.reuse,
            build=build,
        )
        if not result.reused:
            _drop_checkpoints(store, settings.name, key)
    return result


def _run_and_seal(
    writer: ArtifactWriter,
    store: ArtifactStore,
    launcher: Launcher,
    *,
    job: TrainJob,
    workers: int,
    progress: Progress,
    own_only: bool,
) -> None:
    started = time.monotonic()
    metrics = Metrics(progress)
    attempts = Attempts(
        job,
        store,
        launcher,
        metrics=metrics,
        workers=workers,
        max_restarts=job.settings.max_restarts,
        own_only=own_only,
        check_output=writer.check,
    )
    attempts.run()
    rows, result = metrics.rows(), metrics.result
    trained = result.trained if result else None
    assert result, "an attempt that ended well has rank 0's result"
    assert trained, "rank 0's result has the weights"
    facts = TrainedFacts(
        weights_sha256=trained.weights_sha256,
        steps=result.steps,
        tokens_per_s=round(speed(rows), 1),
        padding_fraction=round(padding_fraction(rows), 5),
        seconds=round(time.monotonic() - started, 3),
        restarts=attempts.restarts,
        workers=attempts.workers,
        executors=launcher.figures(),
        averages=trained.strategy.averages,
        reproducible=trained.strategy.reproducible,
        staleness=trained.strategy.staleness,
        validation_loss=trained.validation_loss,
        best_step=None if trained.validation_loss is None else trained.best_step,
    )
    _seal(writer, store, job, rows, weights=trained.weights, facts=facts)


@contextlib.contextmanager
def _alone(settings: Settings, store: ArtifactStore, key: str) -> Iterator[None]:
    """One training of a name at a time, unless it is done already; what an earlier one left half-written is removed."""
    if settings.reuse and store.find("trained", settings.name, key):
        yield
        return
    # No model can have this name: a lease of the model itself may be held by the run that this step belongs to.
    with Lease.hold(store, f"_train-{settings.name}"):
        for kind in ("checkpoint", "trained"):
            discard_unsealed(store, kind, settings.name)
        yield


def _drop_checkpoints(store: ArtifactStore, name: str, key: str) -> None:
    """What was sealed is never gone on from; the weights are done, whatever the store says to this."""
    try:
        prune(store, name, key, keep=0)
        discard_unsealed(store, "checkpoint", name)
    except (Ts4sError, OSError) as exc:
        log.warning("checkpoints of %s stay until gc: %s", name, exc)


def _absolute(folder: str | None) -> str | None:
    """A folder as workers find it, whose working directory is another."""
    return None if folder is None else str(expanded(folder).absolute())


def _class_weights(settings: Settings, store: ArtifactStore, dataset: ArtifactRef) -> list[float] | None:
    weights = kind_of(settings.model.task).class_weights
    if settings.model.class_weights == "none" or weights is None:
        return None
    from ts4s_core.data.dataset import Dataset

    with Dataset.open(store, dataset) as opened:
        return load(weights)(opened)  # type: ignore[no-any-return]


def _seal(
    writer: ArtifactWriter,
    store: ArtifactStore,
    job: TrainJob,
    rows: Sequence[StepRow],
    *,
    weights: FileEntry,
    facts: TrainedFacts,
) -> None:
    """Fill the trained artifact: weights that rank 0 wrote, everything else of the model, and figures."""
    writer.register(weights)
    model = job.model_ref
    folder = store.local(model)
    for file in store.manifest(model).files:
        if file.path not in _NOT_COPIED:
            retried(functools.partial(writer.add_file, folder / file.path, file.path, identity=file.identity))
    writer.facts = facts.to_json()
    retried(lambda: writer.add_bytes("metrics.csv", as_csv(rows), identity=False))
    statistics = _statistics(store, job, rows, version=writer.ref.version, facts=facts)
    retried(lambda: writer.add_bytes("stats.txt", statistics.encode(), identity=False))
    retried(lambda: writer.add_json("training.json", writer.facts, identity=False))


def _statistics(store: ArtifactStore, job: TrainJob, rows: Sequence[StepRow], *, version: str, facts: TrainedFacts) -> str:
    """``stats.txt``."""
    dataset = DatasetFacts.of(store.manifest(job.dataset_ref))
    about = {
        "name": job.name,
        "version": version,
        "dataset": job.dataset,
        "model": job.model,
        "task": job.task,
        "rows": (dataset.windows or dataset.rows).get("train"),
        **{name: job.train[name] for name in ("strategy", "logical_shards", "batch_size", "threads_per_worker")},
    }
    return as_text(rows, about=about, totals=facts.shown(), executors=facts.executors)
