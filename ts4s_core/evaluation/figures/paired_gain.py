"""Paired bootstrap of the gain of one model over another on the same rows.

A resample of N rows is a multinomial draw of how often each row is taken. Rows that count alike for the metric are one cell,
and a cell is drawn as often as its rows together: the same distribution as drawing row by row, at a cost that depends on the
number of cells. For accuracy and macro-F1 the cells are the distinct (truth, answer, answer), so ten million rows cost no
more than their few hundred cells.

Notation: R resamples, M cells, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ts4s_core.evaluation.figures.metrics import macro_f1
from ts4s_core.evaluation.scoring.predictions import Bools, Floats, Predictions
from ts4s_core.task_kinds.registry import METRICS

RESAMPLES = 2_000
SEED = 20_240_229
CONFIDENCE = 0.95
#: Above this many rows the losses are drawn by groups of neighbours in size, each of which counts with its mean.
LOSS_CELLS = 10_000
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Gain:
    """How much better the candidate is; positive is better whatever the metric.

    Attributes:
        candidate: its metric on the rows.
        champion: its metric on the same rows.
        gain: the difference, sign turned for a loss.
        low: lower end of the 95 % interval of the gain.
        high: upper end.
        rows: how many rows were compared.
    """

    candidate: float
    champion: float
    gain: float
    low: float
    high: float
    rows: int


def value_of(predictions: Predictions, metric: str) -> float:
    """``accuracy``, ``macro_f1`` or ``loss`` of some predictions."""
    if metric == "macro_f1":
        return macro_f1(predictions)
    return float((predictions.losses if metric == "loss" else predictions.correct).mean())


def paired_gain(
    candidate: Predictions, champion: Predictions, *, metric: str, resamples: int = RESAMPLES, seed: int = SEED
) -> Gain:
    """Gain of the candidate with its 95 % interval (percentiles of the resampled gains).

    Args:
        candidate: N >= 1 rows.
        champion: the same rows in the same order.
        metric: ``accuracy``, ``macro_f1`` or ``loss``.
    """
    assert np.array_equal(candidate.ids, champion.ids), "paired predictions are of the same rows"
    first, second = value_of(candidate, metric), value_of(champion, metric)
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    gains = sign * _resampled(candidate, champion, metric=metric, draws=_Draws(resamples, seed))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    return Gain(first, second, sign * (first - second), float(low), float(high), len(candidate))


@dataclass(frozen=True)
class _Draws:
    resamples: int
    seed: int

    def of(self, counts: npt.NDArray[np.int64]) -> Any:
        """Blocks (r, M) of how often each cell is drawn, bounded in size, the same for the same seed."""
        random = np.random.default_rng(self.seed)
        rows = int(counts.sum())
        step = max(1, _CELLS_AT_ONCE // len(counts))
        for start in range(0, self.resamples, step):
            yield random.multinomial(rows, counts / rows, size=min(step, self.resamples - start)).astype(np.float64)


def _resampled(candidate: Predictions, champion: Predictions, *, metric: str, draws: _Draws) -> Floats:
    """(R,) differences candidate - champion."""
    if metric == "macro_f1":
        return _resampled_f1(candidate, champion, draws=draws)
    if metric == "loss":
        means, counts = _grouped(candidate.losses - champion.losses)
    else:
        difference = candidate.correct.astype(np.float64) - champion.correct
        means, counts = np.unique(difference, return_counts=True)
    return np.concatenate([block @ means / counts.sum() for block in draws.of(counts)])


def _grouped(values: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    if len(values) <= LOSS_CELLS:
        return values, np.ones(len(values), dtype=np.int64)
    groups = np.array_split(np.sort(values), LOSS_CELLS)
    return np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])


def _resampled_f1(candidate: Predictions, champion: Predictions, *, draws: _Draws) -> Floats:
    packed = np.packbits(np.concatenate([candidate.truth, candidate.predicted, champion.predicted], axis=1), axis=1)
    _cells, first, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
    truth = candidate.truth[first]
    answers = [model.predicted[first] for model in (candidate, champion)]
    gains = []
    for block in draws.of(counts):
        ours, theirs = (_weighted_macro_f1(truth, answer, block) for answer in answers)
        gains.append(ours - theirs)
    return np.concatenate(gains)


def _weighted_macro_f1(truth: Bools, predicted: Bools, weights: Floats) -> Floats:
    """(r,) macro-F1 over the classes that occur or are predicted, with each cell weighed by ``weights`` (r, M)."""
    both = weights @ (truth & predicted).astype(np.float64)  # (r, C) true positives
    either = weights @ truth.astype(np.float64) + weights @ predicted.astype(np.float64)  # 2 tp + fp + fn
    seen = either > 0
    f1 = np.divide(2 * both, either, out=np.zeros_like(either), where=seen)
    return np.asarray(f1.sum(axis=1) / np.maximum(seen.sum(axis=1), 1))
