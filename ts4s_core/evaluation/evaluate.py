"""The evaluation step: score, measure, ask the gate, write the report; one artifact of kind ``report``."""

from __future__ import annotations

import csv
import datetime
import io
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.keys import step_key
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.engine import DataEngine
from ts4s_core.errors import IntegrityError
from ts4s_core.evaluation.comparison import Contest, Verdict, gate
from ts4s_core.evaluation.dataset_rows import dataset_labels
from ts4s_core.evaluation.gate import Decision
from ts4s_core.evaluation.lineage import ancestors
from ts4s_core.evaluation.metrics import confusion_csv, headline, measure, per_class_csv
from ts4s_core.evaluation.predict import STAGE, predict_rows
from ts4s_core.evaluation.prediction_file import most_confident_mistakes, write_predictions
from ts4s_core.evaluation.predictions import Predictions
from ts4s_core.evaluation.report import ReportData, render
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings

KIND = "report"
#: Stands for the champion's content where the evaluated version is the champion itself.
ITSELF = "itself"


def evaluate(
    settings: Settings,
    store: ArtifactStore,
    engine: DataEngine,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    champion: ArtifactRef | None = None,
    step_seconds: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> StepResult:
    """Evaluate a trained version on the test side of a dataset and let the gate compare it with the champion.

    Files: ``metrics.json``, ``confusion.csv``, ``per_class.csv``, ``predictions.parquet``, ``decision.json``, ``report.html``.
    Facts: ``metrics`` (accuracy, macro_f1, loss), ``baseline`` (the same of the majority class), ``decision``, ``rows``.

    Args:
        settings: groups ``evaluate`` and ``train`` (threads), and ``data.show_text``.
        store: holds everything.
        engine: scores rows in parallel.
        trained: the version.
        dataset: the dataset it was trained on.
        champion: the version that the registry's alias names now, if any. The version itself: it was promoted before, and the
            report that led to that is the result.
        step_seconds: how long the earlier steps of the flow took; for the report alone.
        progress: told of rows done.

    Raises:
        DataError: if the model answers other labels than the dataset has, or the test side is empty.
        IntegrityError: if a file is damaged.
        NonFiniteError: if the model gives a logit that is no number.
    """
    started = time.monotonic()
    wanted = _settings(settings)
    itself = champion == trained
    if itself and settings.reuse:
        found = report_of(store, settings.name, trained=trained, dataset=dataset, wanted=wanted)
        if found is not None:
            return StepResult(found, True, time.monotonic() - started, store.manifest(found).facts)
    against = None if itself else champion
    run = _Run(settings, store, engine, trained, dataset, against, itself, step_seconds or {}, progress, started)
    inputs = {
        "trained": content_of(store, trained),
        "dataset": content_of(store, dataset),
        "champion": ITSELF if itself else content_of(store, champion),
    }
    return run_step(
        store,
        kind=KIND,
        name=settings.name,
        key=step_key(KIND, inputs=inputs, settings=wanted),
        settings=wanted,
        upstream={"trained": trained, "dataset": dataset} | ({} if against is None else {"champion": against}),
        reuse=settings.reuse,
        build=run.build,
    )


def read_decision(store: ArtifactStore, report: ArtifactRef) -> Decision:
    """What the gate said in a report: for the task that publishes it.

    Raises:
        IntegrityError: if the report has no decision.
    """
    record = store.manifest(report).facts.get("decision")
    if not isinstance(record, dict):
        raise IntegrityError(f"{report} has no decision of the gate: expected it in the manifest's facts. Evaluate again")
    return Decision.from_json(record)


@dataclass(frozen=True)
class _Run:
    """One evaluation that is being made; ``champion`` is None where the version is the champion itself."""

    settings: Settings
    store: ArtifactStore
    engine: DataEngine
    trained: ArtifactRef
    dataset: ArtifactRef
    champion: ArtifactRef | None
    itself: bool
    step_seconds: Mapping[str, float]
    progress: Progress
    started: float

    def build(self, writer: ArtifactWriter) -> None:
        """Write every file of the report."""
        answers = predict_rows(
            self.store,
            self.engine,
            trained=self.trained,
            dataset=self.dataset,
            threads=self.settings.train.threads_per_worker,
            progress=self.progress,
        )
        labels = dataset_labels(self.store, self.dataset)
        metrics = measure(answers, labels)
        verdict = self._verdict(answers, metrics)
        writer.add_json("metrics.json", metrics)
        writer.add_json("decision.json", verdict.decision.to_json())
        writer.add_bytes("confusion.csv", confusion_csv(answers, labels))
        writer.add_bytes("per_class.csv", per_class_csv(metrics))
        with tempfile.TemporaryDirectory(prefix="ts4s-predictions-") as folder:
            local = Path(folder) / "predictions.parquet"
            write_predictions(self.store, self.dataset, answers, local=local, show_text=self.settings.data.show_text)
            writer.add_file(local, "predictions.parquet")
        self.progress(STAGE, {"part": "report"})
        page = render(self._report_data(answers, metrics=metrics, verdict=verdict))
        # The times in it do not make it another evaluation.
        writer.add_bytes("report.html", page.encode("utf-8", errors="replace"), identity=False)
        base = metrics["baseline"]
        writer.facts |= {
            "metrics": headline(metrics),
            "baseline": {"answer": base["answer"], **headline(base)},
            "rows": metrics["rows"],
            "decision": verdict.decision.to_json(),
        }

    def _verdict(self, answers: Predictions, metrics: Mapping[str, Any]) -> Verdict:
        contest = Contest(self.trained, self.dataset, self.champion, answers, metrics)
        verdict = gate(self.settings, self.store, self.engine, contest=contest, progress=self.progress)
        if not self.itself:
            return verdict
        figures = verdict.decision.figures
        return Verdict(Decision(False, "this version is the champion already", None, figures), verdict.novelty)

    def _report_data(self, answers: Predictions, *, metrics: Mapping[str, Any], verdict: Verdict) -> ReportData:
        store, show_text = self.store, self.settings.data.show_text
        with Dataset.open(store, self.dataset) as opened:
            card, labels = opened.card(), opened.labels
        return ReportData(
            name=self.settings.name,
            trained=str(self.trained),
            metrics=metrics,
            labels=labels,
            decision=verdict.decision,
            lineage=[
                (ancestor.role, str(ancestor.ref), ancestor.manifest.created if ancestor.manifest else "no longer in the store")
                for ancestor in ancestors(store, self.trained)
            ],
            card=card,
            novelty=verdict.novelty,
            curves=curves_of(store, self.trained),
            training=store.manifest(self.trained).facts,
            step_seconds={**self.step_seconds, STAGE: time.monotonic() - self.started},
            mistakes=most_confident_mistakes(store, self.dataset, answers, show_text=show_text),
            settings=self.settings.plain(),
            created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        )


def _settings(settings: Settings) -> dict[str, Any]:
    """The settings that bear on a report; approval comes after it."""
    wanted: dict[str, Any] = settings.evaluate.model_dump(mode="json", exclude={"require_approval"})
    return {"evaluate": wanted, "show_text": settings.data.show_text}


def content_of(store: ArtifactStore, ref: ArtifactRef | None) -> str:
    """The content hash of a version; empty for none."""
    return "" if ref is None else store.manifest(ref).content_sha256


def report_of(
    store: ArtifactStore, name: str, *, trained: ArtifactRef, dataset: ArtifactRef, wanted: Mapping[str, Any]
) -> ArtifactRef | None:
    """The newest report on a version that was made with the same settings, whatever champion it was compared with."""
    for ref in reversed(store.versions(KIND, name)):
        manifest = store.manifest(ref)
        upstream = manifest.upstream
        if (upstream.get("trained"), upstream.get("dataset")) == (str(trained), str(dataset)) and manifest.settings == wanted:
            return ref
    return None


def curves_of(store: ArtifactStore, trained: ArtifactRef) -> list[dict[str, float]]:
    """The metrics stream of a training, its numbers alone; empty cells are left out."""
    with store.open_file(trained, "metrics.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        return [{name: float(value) for name, value in row.items() if name and _is_number(value)} for row in rows]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
