"""What the steps of one run share: settings, store, the Spark program, and where progress goes.

The steps themselves are methods here, without Prefect, so that the command line can run one alone; each task of this
package calls one of them. The run is found through a context variable, because nothing but references may pass through
Prefect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.checks import check_classes, check_source, check_store
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError
from ts4s_core.progress import Progress, Value, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.client import SparkProgram
from ts4s_core.training.strategies import check_strategy

if TYPE_CHECKING:
    from ts4s_core.onnx.sources import ModelSource

#: A driver program that was silent for less may just be starting on a busy machine.
SHORTEST_SILENCE_S = 60.0
_CURRENT: ContextVar[Run | None] = ContextVar("ts4s_run", default=None)


class Note(Protocol):
    """What a step's end is shown with."""

    text: str


Stage = Callable[[str], AbstractContextManager[Note]]


@dataclass
class PlainNote:
    """A note that nobody reads."""

    text: str = "done"


@contextlib.contextmanager
def silent_stage(_name: str) -> Iterator[Note]:
    """Show nothing of a step's beginning and end."""
    yield PlainNote()


@dataclass(frozen=True)
class Checked:
    """Input that was found fit before the first write.

    Attributes:
        source: the base model.
        labels: label names, alphabetically.
        rows: rows of each side.
    """

    source: ModelSource
    labels: tuple[str, ...]
    rows: Mapping[str, int]


class Run:
    """One run of a flow, or of a single step."""

    def __init__(self, settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage) -> None:
        self.settings = settings
        self.store = ArtifactStore.open(settings.storage, progress=self.progress)
        self.program = SparkProgram(settings)
        self.stage = stage
        self._progress = progress
        self._listeners: list[Progress] = []
        self._checked: Checked | None = None
        self._source: ModelSource | None = None

    @property
    def registry(self) -> Registry:
        """The registry of the store."""
        return Registry(self.store)

    def progress(self, stage: str, fields: Mapping[str, Value]) -> None:
        """Pass an event on to everybody who listens."""
        for listener in (self._progress, *self._listeners):
            listener(stage, fields)

    @contextlib.contextmanager
    def listening(self, listener: Progress) -> Iterator[None]:
        """Let a task hear the events too."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def check(self) -> Checked:
        """Find the base model and read the data completely; writes nothing. The second call returns what the first found.

        Raises:
            InputError: naming everything that is wrong with model and data at once.
        """
        if self._checked is None:
            check_store(self.settings)
            check_strategy(self.settings.train)
            self._checked = self._check()
        return self._checked

    def check_input(self) -> None:
        """Check whatever this kind of run reads, before the first write.

        Raises:
            InputError: naming what is wrong.
        """
        self.check()

    def _check(self) -> Checked:
        with ThreadPoolExecutor(1) as pool:
            scanning = pool.submit(self.scan)
            problems: list[InputError] = []
            found: ModelSource | None = None
            try:
                try:
                    found = self.source()
                    check_source(self.settings, found, self.store)
                except InputError as exc:
                    problems.append(exc)
                try:
                    scan = scanning.result()
                except InputError as exc:
                    problems.append(exc)
            except BaseException:
                self.program.kill()  # ends the job, and with it the wait of the pool
                raise
        if found is None or problems:
            raise problems[0] if len(problems) == 1 else InputError("; ".join(map(str, problems)))
        labels = tuple(scan["labels"])
        check_classes(self.settings, labels)
        return Checked(found, labels, scan["sides"])

    def source(self) -> ModelSource:
        """The base model, checked; looked for once."""
        from ts4s_core.onnx.sources import resolve_source

        if self._source is None:
            self._source = resolve_source(self.settings.model, self.store, seed=self.settings.train.seed)
        return self._source

    def scan(self) -> dict[str, Any]:
        """Read the data completely; writes nothing. Preparing them later does not read them for that again."""
        return self._job("scan")

    def export(self, to: Path | None = None) -> StepResult:
        """Export the base model, to a plain file too if one is named."""
        from ts4s_core.onnx.export_step import export_model, export_to_file

        with self._step("export") as done:
            if to is None:
                return done(export_model(self.settings, self.store, source=self.source(), progress=self.progress))
            return done(export_to_file(self.settings, self.store, to, source=self.source(), progress=self.progress))

    def import_model(self, base: ArtifactRef, *, classes: int, labels: Sequence[str] | None) -> StepResult:
        """Put a head of so many classes on an exported model."""
        from ts4s_core.onnx.import_step import import_model

        source = None if self._checked is None else self._checked.source
        with self._step("import") as done:
            return done(
                import_model(
                    self.settings,
                    self.store,
                    onnx_ref=base,
                    classes=classes,
                    label_names=labels,
                    source=source,
                    progress=self.progress,
                )
            )

    def prepare(self, base: ArtifactRef) -> StepResult:
        """Check, split and tokenise the data with the tokenizer of an exported model."""
        return self._spark_step("prepare", onnx=str(base))

    def train(self, dataset: ArtifactRef, model: ArtifactRef) -> StepResult:
        """Train a model on a dataset."""
        return self._spark_step("train", dataset=str(dataset), model=str(model))

    def evaluate(self, trained: ArtifactRef, dataset: ArtifactRef, *, seconds: Mapping[str, float]) -> StepResult:
        """Evaluate a trained version against the champion of now."""
        return self._evaluate(trained, dataset, seconds=seconds)

    def _evaluate(self, trained: ArtifactRef, dataset: ArtifactRef, *, seconds: Mapping[str, float], **inputs: Any) -> StepResult:
        champion = self.registry.alias(self.settings.name)
        against = None if champion is None else str(ArtifactRef("trained", self.settings.name, champion))
        return self._spark_step(
            "evaluate", trained=str(trained), dataset=str(dataset), champion=against, step_seconds=dict(seconds), **inputs
        )

    def check_prediction(self, model: str, asked: Mapping[str, str | None]) -> ArtifactRef:
        """The version that a prediction is asked of, and whether its output can be written; writes nothing.

        Raises:
            InputError: naming what is wrong.
        """
        from ts4s_core.prediction.output import open_target
        from ts4s_core.prediction.predict import PredictOptions

        options = PredictOptions.of(asked)
        if options.output:
            open_target(options.output, self.settings.storage)
        else:
            check_store(self.settings)
        return self.store.manifest(self.registry.resolve(model)).ref

    def predict(self, trained: ArtifactRef, asked: Mapping[str, str | None]) -> dict[str, Any]:
        """Predict every row of the source."""
        with self.stage("predict"):
            return self._job("predict", trained=str(trained), options=dict(asked))

    def _spark_step(self, name: str, **inputs: Any) -> StepResult:
        with self._step(name) as done:
            return done(StepResult.from_json(self._job(name, **inputs)))

    def _job(self, name: str, **inputs: Any) -> dict[str, Any]:
        silence_s = max(SHORTEST_SILENCE_S, self.settings.train.timeout_s)
        return self.program.run({"job": name, **inputs}, progress=self.progress, silence_s=silence_s)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Callable[[StepResult], StepResult]]:
        with self.stage(name) as note:

            def done(result: StepResult) -> StepResult:
                note.text = "found" if result.reused else "done"
                return result

            yield done


def current_run() -> Run:
    """The run that is under way."""
    run = _CURRENT.get()
    if run is None:
        raise RuntimeError("a task of ts4s runs inside one of its flows")
    return run


@contextlib.contextmanager
def open_run(settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage) -> Iterator[Run]:
    """Begin a run; at its end the Spark program and all that it started are gone."""
    run = _run_class(settings)(settings, progress=progress, stage=stage)
    token = _CURRENT.set(run)
    try:
        with run.program:
            yield run
    finally:
        _CURRENT.reset(token)


def _run_class(settings: Settings) -> type[Run]:
    if settings.model.task != "language-model":
        return Run
    from tasks.language_run import LanguageRun

    return LanguageRun


@contextlib.contextmanager
def joined_run(settings: Settings) -> Iterator[Run]:
    """The run that is under way (the command line checked its input already), or a new one (a deployment's)."""
    run = _CURRENT.get()
    if run is not None:
        yield run
        return
    with open_run(settings) as run:
        yield run
