"""What the steps of one run share: settings, store, the Spark program, and where progress goes.

The steps are methods, without Prefect, so that the command line can run one alone; a task of a flow calls one of them.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.pipeline.checks import check_store
from ts4s_core.pipeline.preflight import preflight
from ts4s_core.progress import Progress, Value, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram

if TYPE_CHECKING:
    from ts4s_core.onnx.sources.resolve import ModelSource

#: A driver program that was silent for less may just be starting on a busy machine.
SHORTEST_SILENCE_S = 60.0


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


class Run(ABC):
    """One run of a flow, or of a single step: what every kind of task does alike."""

    def __init__(self, settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage) -> None:
        self.settings = settings
        self.store = ArtifactStore.open(settings.storage, progress=self.progress)
        self.program = SparkProgram(settings)
        self.stage = stage
        self._progress = progress
        self._listeners: list[Progress] = []
        self._source: ModelSource | None = None
        self._tried = False

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

    @abstractmethod
    def check_input(self) -> None:
        """Check whatever this kind of run reads, before the first write.

        Raises:
            InputError: naming what is wrong.
        """

    def preflight(self) -> None:
        """Try every kind of write that this run will need, once, right before the first of them; nothing is left.

        Raises:
            InputError: naming every place that does not take what a run writes.
        """
        if not self._tried:
            preflight(self.settings, self.store)
            self._tried = True

    def source(self) -> ModelSource:
        """The base model, checked; looked for once."""
        from ts4s_core.onnx.sources.resolve import resolve_source

        if self._source is None:
            self._source = resolve_source(self.settings.model, self.store, seed=self.settings.train.seed)
        return self._source

    @abstractmethod
    def scan(self) -> dict[str, Any]:
        """Read the data completely; writes nothing. Preparing them later does not read them for that again."""

    def export(self, to: Path | None = None) -> StepResult:
        """Export the base model, to a plain file too if one is named."""
        from ts4s_core.onnx.exporting.step import export_model, export_to_file

        with self._step("export") as done:
            if to is None:
                return done(export_model(self.settings, self.store, source=self.source(), progress=self.progress))
            return done(export_to_file(self.settings, self.store, to, source=self.source(), progress=self.progress))

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
        from ts4s_core.prediction.job import PredictOptions
        from ts4s_core.prediction.output import open_target

        options = PredictOptions.of(asked)
        if options.output:
            open_target(options.output, self.settings.storage)
        else:
            check_store(self.settings)
        return self.store.manifest(self.registry.resolve(model)).ref

    def predict(self, trained: ArtifactRef, asked: Mapping[str, str | None]) -> dict[str, Any]:
        """Predict every row of the source."""
        if not asked.get("output"):
            self.preflight()
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
        self.preflight()
        with self.stage(name) as note:

            def done(result: StepResult) -> StepResult:
                note.text = "found" if result.reused else "done"
                return result

            yield done
