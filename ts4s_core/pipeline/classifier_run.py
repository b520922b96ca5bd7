"""A run of the retrain flow: an encoder with a new head, on labelled text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.facts import DatasetFacts, ScanFacts
from ts4s_core.errors import InputError
from ts4s_core.pipeline.checks import check_classes, check_source, check_store
from ts4s_core.pipeline.training_run import NamedInputs, TrainingRun
from ts4s_core.training.settings_checks import check_training

if TYPE_CHECKING:
    from ts4s_core.onnx.sources.resolve import ModelSource


@dataclass(frozen=True)
class CheckedInput:
    """The model source and the data of a run, checked before the first write.

    Attributes:
        source: the base model.
        labels: label names, alphabetically.
        rows: rows of each side.
    """

    source: ModelSource
    labels: tuple[str, ...]
    rows: Mapping[str, int]


class ClassifierRun(TrainingRun):
    """Steps of a classifier; those that every kind of task has stand in the base class."""

    _checked: CheckedInput | None = None

    def check(self) -> CheckedInput:
        """Find the base model and read the data completely; writes nothing. The second call returns what the first found.

        Raises:
            InputError: naming everything that is wrong with model and data at once.
        """
        if self._checked is None:
            check_store(self.settings)
            check_training(self.settings)
            self._checked = self._check()
        return self._checked

    def check_input(self) -> None:
        """Check model and data; see :meth:`check`."""
        self.check()

    def _check(self) -> CheckedInput:
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
        labels = scan.labels
        check_classes(self.settings, labels)
        return CheckedInput(found, labels, scan.sides)

    def scan(self) -> ScanFacts:
        """Read the data completely; writes nothing. Preparing them later does not read them for that again."""
        return ScanFacts.model_validate(self._job("scan"))

    def export_alone(self, to: Path | None) -> StepResult:
        """See :class:`TrainingRun`."""
        with self.stage("check"):
            check_source(self.settings, self.source(), self.store)
        return self._export_source(to)

    def export(self) -> StepResult:
        """Export the base model."""
        return self._export_source()

    def import_alone(self, given: NamedInputs) -> StepResult:
        """See :class:`TrainingRun`; class names come from a dataset, else from ``model.classes``."""
        with self.stage("check"):
            base = self._base(given)
            classes, labels = self._classes(given)
        return self.import_model(base, classes=classes, labels=labels)

    def import_model(self, base: ArtifactRef, *, classes: int, labels: Sequence[str] | None) -> StepResult:
        """Put a head of so many classes on an exported model."""
        from ts4s_core.models.import_step import import_model

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

    def prepare_alone(self, given: NamedInputs) -> StepResult:
        """See :class:`TrainingRun`; the tokenizer is an exported model's."""
        with self.stage("check"):
            base = self._base(given)
            self.scan()
        return self.prepare(base)

    def _base(self, given: NamedInputs) -> ArtifactRef:
        """The exported base model: the one named, else the newest of model.source."""
        if "onnx" in given:
            return self.newest("onnx", given)
        source = self.source()
        return source.ref or self.newest("onnx", given, name=source.slug)

    def _classes(self, given: NamedInputs) -> tuple[int, tuple[str, ...] | None]:
        """How many classes, and what they are called: from the dataset if there is one, else from model.classes."""
        settings = self.settings
        dataset = given.get("dataset") or self.store.newest("dataset", settings.name)
        if dataset is not None:
            labels = DatasetFacts.of(self.store.manifest(dataset)).labels
            check_classes(settings, labels)
            return len(labels), labels
        if not settings.model.classes:
            raise InputError(
                f"import needs the number of classes: no dataset named {settings.name} in {self.store.storage.uri} and "
                "model.classes is 0. Run ts4s prepare first, name one with --from dataset/NAME/VERSION, or set model.classes"
            )
        return settings.model.classes, None
