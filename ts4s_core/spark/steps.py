"""The jobs of the driver program: each calls the core function of a step, on Spark or, with spark.master none, without it.

A job is JSON: ``{"job": NAME, "settings": Settings.plain(), ...}``; so is its result. Secrets are in neither.
"""

from __future__ import annotations

import base64
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.errors import SettingsError
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.session import SessionPlan, Sessions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ts4s_core.artifacts.refs import ArtifactRef
    from ts4s_core.artifacts.steps import StepResult
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.data.corpus_scan import TextScan
    from ts4s_core.data.engine import DataEngine
    from ts4s_core.data.scan import Scan
    from ts4s_core.spark.engine import SparkEngine
    from ts4s_core.training.launcher import Launcher

Job = Mapping[str, Any]
Result = dict[str, Any]


@dataclass
class Place:
    """Where jobs run, and what they leave for the next one.

    Attributes:
        settings: the settings of the job.
        temporary: private folder of the program.
        sessions: holds at most one Spark session.
        scanned: what was scanned last, and what it says.
        progress: told of files that go to the store or come from there.
        scanned_text: the same for the text of a language model.
    """

    settings: Settings
    temporary: Path
    sessions: Sessions = field(default_factory=Sessions)
    scanned: tuple[object, Scan] | None = None
    scanned_text: tuple[object, TextScan] | None = None
    progress: Progress = silent
    _engine: tuple[SparkSession, SparkEngine] | None = None

    @property
    def has_spark(self) -> bool:
        """Whether jobs run on Spark."""
        return self.settings.spark.master != "none"

    def session(self) -> SparkSession:
        """The session, started at the first call.

        Raises:
            SettingsError: if ``spark.conf`` contradicts what training relies on.
            SparkError: if Spark does not start.
        """
        plan = SessionPlan(self.settings.spark, self.settings.train.threads_per_worker, self.temporary)
        return self.sessions.get(plan)

    def engine(self) -> DataEngine:
        """Where data are read and scored; one engine a session, because it knows the tables that a scan opened."""
        if self.has_spark:
            from ts4s_core.spark.engine import SparkEngine

            session = self.session()
            if self._engine is None or self._engine[0] is not session:
                self._engine = (session, SparkEngine(session))
            return self._engine[1]
        from ts4s_core.data.engine import LocalEngine

        return LocalEngine()

    def slots(self) -> int:
        """Tasks that the engine runs at once."""
        if not self.has_spark:
            return 1
        return max(1, int(self.session().sparkContext.defaultParallelism) // self.settings.train.threads_per_worker)

    def launcher(self) -> Launcher:
        """Where training workers run."""
        train = self.settings.train
        if self.has_spark:
            from ts4s_core.spark.barrier import BarrierLauncher

            wanted = train.workers or train.logical_shards
            return BarrierLauncher(self.session, threads_per_worker=train.threads_per_worker, workers=wanted)
        from ts4s_core.training.local import LocalLauncher

        return LocalLauncher(threads_per_worker=train.threads_per_worker)

    def store(self) -> ArtifactStore:
        """The artifact store of the settings."""
        from ts4s_core.artifacts.store import ArtifactStore

        return ArtifactStore.open(self.settings.storage, progress=self.progress)

    def scan(self, *, again: bool) -> Scan:
        """What the data are: what the last scan of the same data found, unless it is to be done again."""
        from ts4s_core.data.scan import scan

        wanted = (self.settings.data, self.settings.model.task)
        if again or self.scanned is None or self.scanned[0] != wanted:
            self.scanned = None
            self.scanned = (wanted, scan(self.settings, self.engine()))
        return self.scanned[1]

    def scan_text(self, tokenizer: Mapping[str, bytes] | None, *, again: bool) -> TextScan:
        """What the text is, and its tokenizer: what the last scan of the same text found, unless it is to be done again."""
        from ts4s_core.data.corpus_scan import scan_text

        model = self.settings.model
        wanted = (self.settings.data, model.tokenizer_kind, model.vocabulary_size, tokenizer)
        if again or self.scanned_text is None or self.scanned_text[0] != wanted:
            self.scanned_text = None
            self.scanned_text = (wanted, scan_text(self.settings, self.engine(), tokenizer=tokenizer))
        return self.scanned_text[1]


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
    from ts4s_core.data.prepare_text import prepare_text

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
    from ts4s_core.training.train import train

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
        from ts4s_core.evaluation.language_evaluate import evaluate_language

        step = functools.partial(evaluate_language, prompts=job.get("prompts") or ())
    else:
        from ts4s_core.evaluation.evaluate import evaluate as step
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
    from ts4s_core.evaluation.compare import compare_versions

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
    from ts4s_core.prediction.predict import PredictOptions, predict

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
    from ts4s_core.artifacts.refs import ArtifactRef

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
