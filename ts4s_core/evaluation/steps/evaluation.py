"""What every evaluation step shares, whatever the model's task: when a report is made again, and what each one says."""

from __future__ import annotations

import csv
import datetime
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.keys import step_key
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import IntegrityError
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.evaluation.figures.lineage import ancestors
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.evaluation.report.data import Mistake, ReportData
from ts4s_core.evaluation.scoring.score_rows import STAGE
from ts4s_core.evaluation.scoring.scorer import spec_of
from ts4s_core.progress import Progress
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import shown_settings
from ts4s_core.training.facts import TrainedFacts

KIND = "report"
#: Stands for the champion's content where the evaluated version is the champion itself.
ITSELF = "itself"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: what the step was given.

    Attributes:
        settings: groups ``evaluate`` and ``train`` (threads), and ``data.show_text``.
        store: holds everything.
        engine: scores in parallel.
        trained: the version.
        dataset: the dataset it was trained on.
        champion: the version that the registry's alias names now, if any; it may be ``trained`` itself.
        step_seconds: how long the earlier steps of the flow took; for the report alone. Empty: the step runs alone.
        progress: called as it goes on.
        started: when the step began.
    """

    settings: Settings
    store: ArtifactStore
    engine: DataEngine
    trained: ArtifactRef
    dataset: ArtifactRef
    champion: ArtifactRef | None
    step_seconds: Mapping[str, float]
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    @property
    def is_champion(self) -> bool:
        """Whether the version is the champion already."""
        return self.champion == self.trained

    @property
    def compared_with(self) -> ArtifactRef | None:
        """The champion that the gate compares the version with; None for the champion itself."""
        return None if self.is_champion else self.champion

    def run(self, relevant: Mapping[str, Any], build: Callable[[ArtifactWriter], None], *, entries: Iterable[str]) -> StepResult:
        """The existing report of the same inputs, or the one that ``build`` writes.

        Args:
            relevant: the settings that the report depends on.
            build: writes the files and sets ``writer.facts``.
            entries: entry points of the step's code, see :func:`ts4s_core.artifacts.versions.keys.step_key`.
        """
        store, settings = self.store, self.settings
        if self.is_champion and settings.reuse:
            found = self._report_before(relevant)
            if found is not None:
                return StepResult(found, True, time.monotonic() - self.started, store.manifest(found).facts)
        inputs = {
            "trained": _content_of(store, self.trained),
            "dataset": _content_of(store, self.dataset),
            "champion": ITSELF if self.is_champion else _content_of(store, self.champion),
        }
        against = {} if self.compared_with is None else {"champion": self.compared_with}
        return run_step(
            store,
            kind=KIND,
            name=settings.name,
            key=step_key(KIND, entries=entries, inputs=inputs, settings=relevant),
            settings=relevant,
            upstream={"trained": self.trained, "dataset": self.dataset} | against,
            reuse=settings.reuse,
            build=build,
        )

    def final_decision(self, decision: Decision) -> Decision:
        """The gate's decision as the report records it: the champion is not promoted again."""
        if not self.is_champion:
            return decision
        return Decision(False, "this version is the champion already", None, decision.figures)

    def report_data(
        self,
        *,
        metrics: Mapping[str, Any],
        decision: Decision,
        card: Mapping[str, Any],
        labels: Sequence[str] = (),
        novelty: Mapping[str, Any] | None = None,
        mistakes: Sequence[Mistake] = (),
    ) -> ReportData:
        """Everything the page shows: what the step found, and what store and settings say of the version."""
        store = self.store
        return ReportData(
            name=self.settings.name,
            trained=str(self.trained),
            metrics=metrics,
            labels=labels,
            decision=decision,
            lineage=[
                (ancestor.role, str(ancestor.ref), ancestor.manifest.created if ancestor.manifest else "no longer in the store")
                for ancestor in ancestors(store, self.trained)
            ],
            card=card,
            novelty=novelty,
            curves=curves_of(store, self.trained),
            training=TrainedFacts.of(store.manifest(self.trained)),
            step_seconds={**self.step_seconds, STAGE: time.monotonic() - self.started},
            mistakes=mistakes,
            settings=shown_settings(
                self.settings, spec_of(store, self.trained).kind, step="" if self.step_seconds else "evaluate"
            ),
            created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        )

    def _report_before(self, relevant: Mapping[str, Any]) -> ArtifactRef | None:
        """The newest report on the version that was made with the same settings, whatever champion it was compared with."""
        for ref in reversed(self.store.versions(KIND, self.settings.name)):
            manifest = self.store.manifest(ref)
            of = (manifest.upstream.get("trained"), manifest.upstream.get("dataset"))
            if of == (str(self.trained), str(self.dataset)) and manifest.settings == relevant:
                return ref
        return None


def add_page(writer: ArtifactWriter, page: str) -> None:
    """Write the report's page. The times in it do not make it another evaluation."""
    writer.add_bytes("report.html", page.encode("utf-8", errors="replace"), identity=False)


def read_decision(store: ArtifactStore, report: ArtifactRef) -> Decision:
    """What the gate said in a report: for the task that publishes it.

    Raises:
        IntegrityError: if the report has no decision.
    """
    facts = ReportFacts.of(store.manifest(report))
    if facts.decision is None:
        raise IntegrityError(f"{report} has no decision of the gate: expected it in the manifest's facts. Evaluate again")
    return Decision.from_json(facts.decision)


def curves_of(store: ArtifactStore, trained: ArtifactRef) -> list[dict[str, float]]:
    """The metrics stream of a training, its numbers alone; empty cells are left out."""
    with store.open_file(trained, "metrics.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        return [{name: float(value) for name, value in row.items() if name and _is_number(value)} for row in rows]


def _content_of(store: ArtifactStore, ref: ArtifactRef | None) -> str:
    """The content hash of a version; empty for none."""
    return "" if ref is None else store.manifest(ref).content_sha256


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
