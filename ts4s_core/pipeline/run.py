"""What the steps of one run share: settings, store, the Spark program, and where progress goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.pipeline.preflight import preflight
from ts4s_core.progress import Progress, Value, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram

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


class Run:
    """One run of a flow, or of a single step. It has no steps: those are its subclasses'."""

    def __init__(self, settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage) -> None:
        self.settings = settings
        self.store = ArtifactStore.open(settings.storage, progress=self.progress)
        self.program = SparkProgram(settings)
        self.stage = stage
        self._progress = progress
        self._listeners: list[Progress] = []
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
        """Pass the events on to a listener too, for a while."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def preflight(self) -> None:
        """Try every kind of write that this run will need, once, right before the first of them; nothing is left.

        Raises:
            InputError: naming every place that does not take what a run writes.
        """
        if not self._tried:
            preflight(self.settings, self.store)
            self._tried = True

    def _spark_step(self, name: str, **inputs: Any) -> StepResult:
        with self._step(name) as done:
            return done(StepResult.from_json(self._job(name, **inputs)))

    def _job(self, name: str, **inputs: Any) -> dict[str, Any]:
        silence_s = max(SHORTEST_SILENCE_S, self.settings.train.timeout_s)
        # What is held here goes along into all that the job writes, on whatever host.
        held = [fence.to_json() for fence in self.store.storage.fences]
        return self.program.run({"job": name, "held": held, **inputs}, progress=self.progress, silence_s=silence_s)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Callable[[StepResult], StepResult]]:
        self.preflight()
        with in_use(self.store, name), self.stage(name) as note:

            def done(result: StepResult) -> StepResult:
                note.text = "found" if result.reused else "done"
                return result

            yield done
