from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ts4s_core.evaluation.figures.paired_gain import LOSS_CELLS, paired_gain, value_of
from ts4s_core.evaluation.scoring.predictions import Predictions, class_indices


def predictions(rows: int, *, right: float, seed: int, classes: int = 3, multi_label: bool = False) -> Predictions:
    """Rows whose truth hangs on the row alone, answered rightly with a probability of ``right``."""
    truth_random, random = np.random.default_rng(7), np.random.default_rng(seed)
    if multi_label:
        truth = truth_random.random((rows, classes)) < 0.4
        answered = np.where(random.random((rows, classes)) < right, truth, ~truth)
    else:
        truth = np.eye(classes, dtype=bool)[truth_random.integers(0, classes, rows)]
        wrong = np.eye(classes, dtype=bool)[random.integers(0, classes, rows)]
        answered = np.where(random.random((rows, 1)) < right, truth, wrong)
    logits = (answered * 4.0 - 2.0 + random.normal(0, 0.3, (rows, classes))).astype(np.float32)
    ids = np.arange(rows).astype(">u8").view("S8").astype("S16")
    return Predictions(ids, truth, logits, multi_label)


def row_by_row(candidate: Predictions, champion: Predictions, metric: str, resamples: int = 1_500) -> tuple[float, float]:
    """The textbook bootstrap, with scikit-learn for the metric."""
    random = np.random.default_rng(1)
    gains = []
    for _ in range(resamples):
        taken = random.integers(0, len(candidate), len(candidate))
        if metric == "macro_f1":
            truth = class_indices(candidate.truth[taken])
            ours, theirs = (
                f1_score(truth, class_indices(model.predicted[taken]), average="macro", zero_division=0.0)
                for model in (candidate, champion)
            )
            gains.append(ours - theirs)
        elif metric == "loss":
            gains.append((champion.losses - candidate.losses)[taken].mean())
        else:
            gains.append(candidate.correct[taken].mean() - champion.correct[taken].mean())
    return float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_interval_is_that_of_resampling_row_by_row(metric: str) -> None:
    candidate, champion = predictions(300, right=0.85, seed=1), predictions(300, right=0.7, seed=2)
    gain = paired_gain(candidate, champion, metric=metric)
    low, high = row_by_row(candidate, champion, metric)
    assert gain.low == pytest.approx(low, abs=0.1 * (high - low))
    assert gain.high == pytest.approx(high, abs=0.1 * (high - low))
    assert gain.gain == pytest.approx((-1 if metric == "loss" else 1) * (gain.candidate - gain.champion))
    assert gain.low < gain.gain < gain.high
    assert gain.low > 0
    assert gain.rows == 300


def test_same_answers_gain_nothing_exactly() -> None:
    model = predictions(200, right=0.8, seed=1)
    for metric in ("accuracy", "macro_f1", "loss"):
        gain = paired_gain(model, model, metric=metric)
        assert (gain.gain, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_it_is_seeded() -> None:
    pair = predictions(100, right=0.8, seed=1), predictions(100, right=0.7, seed=2)
    assert paired_gain(*pair, metric="macro_f1") == paired_gain(*pair, metric="macro_f1")
    assert paired_gain(*pair, metric="macro_f1") != paired_gain(*pair, metric="macro_f1", seed=1)


def test_multi_label_macro_f1() -> None:
    candidate = predictions(150, right=0.95, seed=1, multi_label=True)
    champion = predictions(150, right=0.75, seed=2, multi_label=True)
    gain = paired_gain(candidate, champion, metric="macro_f1")
    expected = f1_score(candidate.truth, candidate.predicted, average="macro")
    assert value_of(candidate, "macro_f1") == pytest.approx(expected)
    assert 0.05 < gain.low < gain.gain < gain.high < 0.5


def test_a_million_rows_take_seconds_of_the_processor() -> None:
    candidate, champion = predictions(1_000_000, right=0.801, seed=1), predictions(1_000_000, right=0.8, seed=2)
    started = time.process_time()
    gain = paired_gain(candidate, champion, metric="accuracy")
    assert time.process_time() - started < 20
    # Standard error of the paired difference: disagreements are rare enough that the interval is narrow.
    assert gain.high - gain.low < 0.005


def test_losses_of_many_rows_are_grouped_without_moving_the_interval() -> None:
    rows = 3 * LOSS_CELLS
    candidate, champion = predictions(rows, right=0.82, seed=1), predictions(rows, right=0.8, seed=2)
    gain = paired_gain(candidate, champion, metric="loss", resamples=400)
    difference = champion.losses - candidate.losses
    spread = 1.96 * difference.std() / np.sqrt(rows)
    assert gain.low == pytest.approx(difference.mean() - spread, abs=0.2 * spread)
    assert gain.high == pytest.approx(difference.mean() + spread, abs=0.2 * spread)
