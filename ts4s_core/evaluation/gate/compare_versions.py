"""``ts4s models compare``: two versions on the same held-out rows. Nothing is written."""

from __future__ import annotations

from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import DataError, NotFoundError, listed
from ts4s_core.evaluation.figures.lineage import training_datasets
from ts4s_core.evaluation.figures.overlap import seen_in_training
from ts4s_core.evaluation.figures.paired_gain import paired_gain
from ts4s_core.evaluation.scoring.score_rows import predict_rows
from ts4s_core.evaluation.scoring.scorer import columns_of, spec_of
from ts4s_core.progress import Progress, silent
from ts4s_core.task_kinds.metrics import OF_CLASSES


def check_comparable(store: ArtifactStore, first: ArtifactRef, second: ArtifactRef) -> None:
    """Check that two versions answer the same question.

    Raises:
        DataError: one is a language model, or they have different labels.
    """
    specs = [spec_of(store, ref) for ref in (first, second)]
    for ref, spec in zip((first, second), specs, strict=True):
        if spec.kind.predictions is None:
            raise DataError(f"Comparison with {ref}: expected a classifier, got {spec.kind.noun}. Compare their reports' metrics")
    columns_of(specs[0].labels, specs[1].labels)


def dataset_for(store: ArtifactStore, first: ArtifactRef, second: ArtifactRef) -> ArtifactRef:
    """The newest dataset that either was trained on.

    Raises:
        NotFoundError: none of them is in the store any more.
    """
    found, gone = [], []
    for ref in (first, second):
        here, missing = training_datasets(store, ref)
        found += here[:1]
        gone += missing
    if not found:
        raise NotFoundError(
            f"Comparison of {first} and {second}: expected a dataset of theirs in the store, got none "
            f"({listed(gone) or 'their manifests name none'}). Name one with --from dataset/NAME/VERSION"
        )
    return max(found, key=lambda ref: ref.version)


def compare_versions(
    store: ArtifactStore,
    engine: DataEngine,
    *,
    first: ArtifactRef,
    second: ArtifactRef,
    dataset: ArtifactRef,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Metrics of two versions on a dataset's test side, with the 95 % interval of each difference (paired bootstrap).

    Rows whose text either was trained on are left out.

    Args:
        store: holds everything.
        engine: scores rows in parallel.
        first: a ``trained`` version.
        second: another one.
        dataset: whose test side.
        threads: threads of a worker.
        progress: called with the rows done.

    Returns:
        ``metrics``: for each metric ``a``, ``b``, and of the gain of ``b`` over ``a`` (positive is better) ``gain``, ``low``,
        ``high``; ``rows``, ``left_out``, ``a``, ``b``, ``dataset``.

    Raises:
        DataError: the versions have other labels than the dataset, or no row is left.
        IntegrityError: a file is damaged.
    """
    answers = [
        predict_rows(store, engine, trained=ref, dataset=dataset, threads=threads, progress=progress) for ref in (first, second)
    ]
    trained_on = sorted({dataset, *(ref for version in (first, second) for ref in training_datasets(store, version)[0])})
    seen = seen_in_training(store, engine, tested=dataset, ids=answers[0].ids, trained_on=trained_on)
    if seen.all():
        raise DataError(
            f"Comparison of {first} and {second}: expected rows that neither was trained on in the test side of {dataset}, "
            f"got none of {len(seen)}. Name another dataset with --from"
        )
    ours, theirs = (answer.only(~seen) for answer in answers)
    metrics = {}
    for name in (metric.name for metric in OF_CLASSES):
        gain = paired_gain(theirs, ours, metric=name)
        metrics[name] = {"a": gain.champion, "b": gain.candidate, "gain": gain.gain, "low": gain.low, "high": gain.high}
    return {
        "a": str(first),
        "b": str(second),
        "dataset": str(dataset),
        "rows": int((~seen).sum()),
        "left_out": int(seen.sum()),
        "metrics": metrics,
    }
