"""A run of the retrain flow: an encoder with a new head, on labelled text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError
from ts4s_core.pipeline.checks import check_classes, check_source, check_store
from ts4s_core.pipeline.run import Run
from ts4s_core.training.settings_checks import check_strategy

if TYPE_CHECKING:
    from ts4s_core.onnx.sources.resolve import ModelSource


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


class ClassifierRun(Run):
    """Steps of a classifier; those that every kind of task has stand in :class:`ts4s_core.pipeline.run.Run`."""

    _checked: Checked | None = None

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
        """Check model and data; see :meth:`check`."""
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

    def scan(self) -> dict[str, Any]:
        """Read the data completely; writes nothing."""
        return self._job("scan")

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
