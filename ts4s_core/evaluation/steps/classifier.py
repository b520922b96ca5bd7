"""The evaluation step: score, measure, ask the gate, write the report; one artifact of kind ``report``."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.evaluation.figures.metrics import confusion_csv, headline, measure, per_class_csv
from ts4s_core.evaluation.gate.evidence import Comparison, gate
from ts4s_core.evaluation.report.prediction_file import most_confident_mistakes, write_predictions
from ts4s_core.evaluation.report.render import render
from ts4s_core.evaluation.scoring.dataset_rows import dataset_labels
from ts4s_core.evaluation.scoring.score_rows import STAGE, predict_rows
from ts4s_core.evaluation.scoring.scorer import spec_of
from ts4s_core.evaluation.steps.evaluation import Evaluation, add_page
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings

#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)


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
        progress: called with the rows done.

    Raises:
        DataError: if the model answers other labels than the dataset has, or the test side is empty.
        IntegrityError: if a file is damaged.
        NonFiniteError: if the model gives a logit that is not finite.
    """
    run = Evaluation(settings, store, engine, trained, dataset, champion, step_seconds or {}, progress)
    # Approval comes after the report, which does not depend on it.
    relevant = settings.evaluate.model_dump(mode="json", exclude={"require_approval"})
    entries = (*ENTRIES, *spec_of(store, trained).kind.facets("head"))
    return run.run({"evaluate": relevant, "show_text": settings.data.show_text}, functools.partial(_build, run), entries=entries)


def _build(run: Evaluation, writer: ArtifactWriter) -> None:
    """Write every file of the report."""
    settings, store, show_text = run.settings, run.store, run.settings.data.show_text
    answers = predict_rows(
        store,
        run.engine,
        trained=run.trained,
        dataset=run.dataset,
        threads=settings.train.threads_per_worker,
        progress=run.progress,
    )
    labels = dataset_labels(store, run.dataset)
    metrics = measure(answers, labels)
    comparison = Comparison(run.trained, run.dataset, run.compared_with, answers, metrics)
    verdict = gate(settings, store, run.engine, comparison=comparison, progress=run.progress)
    decision = run.final_decision(verdict.decision)
    writer.add_json("metrics.json", metrics)
    writer.add_json("decision.json", decision.to_json())
    writer.add_bytes("confusion.csv", confusion_csv(answers, labels))
    writer.add_bytes("per_class.csv", per_class_csv(metrics))
    with tempfile.TemporaryDirectory(prefix="ts4s-predictions-") as folder:
        local = Path(folder) / "predictions.parquet"
        write_predictions(store, run.dataset, answers, local=local, show_text=show_text)
        writer.add_file(local, "predictions.parquet")
    run.progress(STAGE, {"doing": "write the report"})
    data = run.report_data(
        metrics=metrics,
        decision=decision,
        card=_card(run),
        labels=labels,
        novelty=verdict.novelty,
        mistakes=most_confident_mistakes(store, run.dataset, answers, show_text=show_text),
    )
    add_page(writer, render(data))
    base = metrics["baseline"]
    facts = ReportFacts(
        metrics=headline(metrics),
        baseline={"answer": base["answer"], **headline(base)},
        rows=metrics["rows"],
        decision=decision.to_json(),
    )
    writer.facts = facts.to_json()


def _card(run: Evaluation) -> dict[str, Any]:
    with Dataset.open(run.store, run.dataset) as opened:
        return opened.card()
