"""The gate's evidence: candidate and champion on the same rows, leaks, drift. The decision itself is ``gate.decide``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import listed
from ts4s_core.evaluation.figures.drift import drift, drift_reasons
from ts4s_core.evaluation.figures.lineage import training_datasets
from ts4s_core.evaluation.figures.overlap import novelty, sample, seen_in_training
from ts4s_core.evaluation.figures.paired_gain import Gain, paired_gain
from ts4s_core.evaluation.gate.decision import Decision, Evidence, decide
from ts4s_core.evaluation.scoring.dataset_rows import dataset_labels
from ts4s_core.evaluation.scoring.predictions import Predictions
from ts4s_core.evaluation.scoring.score_rows import predict_rows
from ts4s_core.evaluation.scoring.scorer import spec_of
from ts4s_core.progress import Progress
from ts4s_core.settings import Settings


@dataclass(frozen=True)
class GateResult:
    """The gate's decision, and how much of the candidate's training data the champion's dataset did not have."""

    decision: Decision
    novelty: dict[str, Any] | None


@dataclass(frozen=True)
class Comparison:
    """The candidate, its champion and the data of their comparison.

    Attributes:
        trained: the candidate.
        dataset: the dataset it was trained and is tested on.
        champion: the version it has to beat; None for a first version.
        predictions: the candidate's, on the whole test side.
        metrics: of these predictions.
    """

    trained: ArtifactRef
    dataset: ArtifactRef
    champion: ArtifactRef | None
    predictions: Predictions
    metrics: Mapping[str, Any]


def gate(
    settings: Settings, store: ArtifactStore, engine: DataEngine, *, comparison: Comparison, progress: Progress
) -> GateResult:
    """Gather the evidence and decide.

    The champion scores the candidate's test side, tokenised by its own tokenizer where that is another one. A row whose text
    stands in the training side of any dataset that either was trained on, directly or through an earlier version, is left out.

    Raises:
        IntegrityError: if a file of the champion or of a dataset is damaged.
    """
    metric, champion = settings.evaluate.metric, comparison.champion
    own = seen_in_training(
        store, engine, tested=comparison.dataset, ids=comparison.predictions.ids, trained_on=[comparison.dataset]
    )
    facts: dict[str, Any] = {
        "metric": metric,
        "candidate": float(comparison.metrics[metric]),
        "baseline": float(comparison.metrics["baseline"][metric]),
        "leaked": int(own.sum()),
        "labels": dataset_labels(store, comparison.dataset),
    }
    fresh = None
    if champion is not None:
        facts["champion_labels"] = spec_of(store, champion).labels
        older, gone = training_datasets(store, champion)
        facts["notes"] = [f"data of the champion are no longer in the store ({listed(gone)}): not left out"] if gone else []
        if older:
            figures = drift(sample(store, older[0]), sample(store, comparison.dataset), bound=settings.evaluate.max_drift)
            facts |= {"drift_figures": figures, "drift": drift_reasons(figures)}
            fresh = novelty(store, new=comparison.dataset, old=older[0])
        if set(facts["champion_labels"]) == set(facts["labels"]):
            gain, removed = _gain(settings, store, engine, comparison=comparison, progress=progress)
            facts |= {"gain": gain, "removed": removed}
    decision = decide(
        Evidence(**facts),
        champion=None if champion is None else str(champion),
        min_improvement=settings.evaluate.min_improvement,
    )
    return GateResult(decision, fresh)


def _gain(
    settings: Settings, store: ArtifactStore, engine: DataEngine, *, comparison: Comparison, progress: Progress
) -> tuple[Gain | None, int]:
    assert comparison.champion is not None, "a gain needs a champion"
    seen_by = {ref for version in (comparison.trained, comparison.champion) for ref in training_datasets(store, version)[0]}
    seen = seen_in_training(store, engine, tested=comparison.dataset, ids=comparison.predictions.ids, trained_on=sorted(seen_by))
    if seen.all():
        return None, len(seen)
    theirs = predict_rows(
        store,
        engine,
        trained=comparison.champion,
        dataset=comparison.dataset,
        threads=settings.train.threads_per_worker,
        progress=progress,
    )
    gain = paired_gain(comparison.predictions.only(~seen), theirs.only(~seen), metric=settings.evaluate.metric)
    return gain, int(seen.sum())
