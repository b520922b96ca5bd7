"""A run that trains a model: the steps that every kind of task has, and what a kind's own run adds.

The steps are methods, without Prefect, so that the command line can run one alone; a task of a flow calls one of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import NotFoundError
from ts4s_core.pipeline.run import Run, Stage, silent_stage
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.kind import load
from ts4s_core.task_kinds.registry import kind_of

if TYPE_CHECKING:
    from ts4s_core.onnx.sources.resolve import ModelSource

#: Artifacts that ``--from`` names, by kind.
NamedInputs = Mapping[str, ArtifactRef]
#: The command that makes each kind of artifact.
COMMAND_OF = {"onnx": "export", "model": "import", "dataset": "prepare", "trained": "train"}


class TrainingRun(Run, ABC):
    """Steps from data and a base model to a report. What a single step reads is named, or the newest under the run's name."""

    _source: ModelSource | None = None

    @abstractmethod
    def check_input(self) -> None:
        """Check whatever this kind of run reads, before the first write.

        Raises:
            InputError: naming what is wrong.
        """

    @abstractmethod
    def export_alone(self, to: Path | None) -> StepResult:
        """Export the base model as a step of its own.

        Args:
            to: a plain ONNX file that is written too.
        """

    @abstractmethod
    def import_alone(self, given: NamedInputs) -> StepResult:
        """Make the model that is trained as a step of its own."""

    @abstractmethod
    def prepare_alone(self, given: NamedInputs) -> StepResult:
        """Make the dataset as a step of its own."""

    def train_alone(self, given: NamedInputs) -> StepResult:
        """Train as a step of its own."""
        return self.train(self.newest("dataset", given), self.newest("model", given))

    def train(self, dataset: ArtifactRef, model: ArtifactRef) -> StepResult:
        """Train a model on a dataset."""
        return self._spark_step("train", dataset=str(dataset), model=str(model))

    def evaluate_alone(self, given: NamedInputs) -> StepResult:
        """Evaluate as a step of its own."""
        trained = self.newest("trained", given)
        dataset = given.get("dataset") or ArtifactRef.parse(self.store.manifest(trained).upstream["dataset"])
        return self.evaluate(trained, dataset, seconds={})

    def evaluate(self, trained: ArtifactRef, dataset: ArtifactRef, *, seconds: Mapping[str, float]) -> StepResult:
        """Evaluate a trained version against the champion of now.

        Args:
            trained: the version.
            dataset: whose test side.
            seconds: how long the steps before took; for the report alone.
        """
        champion = self.registry.alias(self.settings.name)
        against = None if champion is None else str(ArtifactRef("trained", self.settings.name, champion))
        return self._spark_step(
            "evaluate",
            trained=str(trained),
            dataset=str(dataset),
            champion=against,
            step_seconds=dict(seconds),
            inputs=self._evaluation_inputs(),
        )

    def _evaluation_inputs(self) -> dict[str, Any]:
        """What the evaluation of this kind is given besides."""
        return {}

    def newest(self, kind: str, given: NamedInputs, *, name: str | None = None) -> ArtifactRef:
        """The artifact that was named, if it exists, else the newest under the name.

        Raises:
            NotFoundError: if there is none.
        """
        if kind in given:
            return self.store.manifest(given[kind]).ref
        name = self.settings.name if name is None else name
        found = self.store.newest(kind, name)
        if found is None:
            raise NotFoundError(
                f"No {kind} artifact named {name} in {self.store.storage.uri}: "
                f"run ts4s {COMMAND_OF[kind]} first, or name one with --from {kind}/NAME/VERSION"
            )
        return found

    def source(self) -> ModelSource:
        """The base model that the settings name, checked; looked for once."""
        from ts4s_core.onnx.sources.resolve import resolve_source

        if self._source is None:
            self._source = resolve_source(self.settings.model, self.store, seed=self.settings.train.seed)
        return self._source

    def _export_source(self, to: Path | None = None) -> StepResult:
        """Export the base model that the settings name, to a plain file too if one is named."""
        from ts4s_core.onnx.exporting.step import export_model, export_to_file

        with self._step("export") as done:
            if to is None:
                return done(export_model(self.settings, self.store, source=self.source(), progress=self.progress))
            return done(export_to_file(self.settings, self.store, to, source=self.source(), progress=self.progress))


def training_run(settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage) -> TrainingRun:
    """A run of the kind of task that the settings name."""
    run: TrainingRun = load(kind_of(settings.model.task).run)(settings, progress=progress, stage=stage)
    return run
