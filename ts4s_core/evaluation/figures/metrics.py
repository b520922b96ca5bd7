"""Figures of a model's predictions, computed with scikit-learn, as plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ts4s_core.errors import DataError
from ts4s_core.evaluation.scoring.predictions import Predictions, class_indices
from ts4s_core.shown_text import csv_bytes

CALIBRATION_BINS = 15
#: Above this many classes the whole matrix is not shown; confusion.csv has its non-zero cells.
MATRIX_CLASSES = 100


def measure(predictions: Predictions, labels: Sequence[str]) -> dict[str, Any]:
    """Everything that is said of one model on one set of rows.

    Args:
        predictions: of N >= 1 rows over C classes.
        labels: the C label names, in the order of the classes.

    Returns:
        rows, accuracy (multi-label: all labels of a row right), macro_f1 and micro_f1 (classes that occur or are predicted),
        loss (mean negative log-likelihood, nats), classes (precision, recall, f1, support each), confusion (rows are true,
        columns predicted; multi-label: [[tn, fp], [fn, tp]] a class; None above 100 classes), calibration, baseline.

    Raises:
        DataError: if there are no rows.
    """
    from sklearn.metrics import accuracy_score

    if not len(predictions):
        raise DataError(
            "evaluation failed: expected at least one row on the test side, got none. Give more data or a larger test_fraction"
        )
    if len(labels) != predictions.truth.shape[1]:
        raise DataError(
            f"evaluation failed: the model has {predictions.truth.shape[1]} classes, the dataset {len(labels)} labels"
        )
    truth, predicted = _for_sklearn(predictions)
    return {
        "rows": len(predictions),
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": macro_f1(predictions),
        "micro_f1": _f1(predictions, "micro"),
        "loss": float(predictions.losses.mean()),
        "classes": per_class(predictions, labels),
        "confusion": confusion(predictions) if len(labels) <= MATRIX_CLASSES else None,
        "calibration": calibration(predictions),
        "baseline": baseline(predictions, labels),
    }


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The three figures of the command contract."""
    return {name: float(metrics[name]) for name in ("accuracy", "macro_f1", "loss")}


def macro_f1(predictions: Predictions) -> float:
    """Mean F1 of the classes that occur or are predicted (scikit-learn's own default set)."""
    return _f1(predictions, "macro")


def _f1(predictions: Predictions, average: str) -> float:
    from sklearn.metrics import f1_score

    seen = predictions.truth.any(axis=0) | predictions.predicted.any(axis=0)
    truth, predicted = _for_sklearn(predictions)
    return float(f1_score(truth, predicted, labels=np.flatnonzero(seen), average=average, zero_division=0.0))


def per_class(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of every class, in the order of ``labels``."""
    from sklearn.metrics import precision_recall_fscore_support

    truth, predicted = _for_sklearn(predictions)
    columns = precision_recall_fscore_support(truth, predicted, labels=np.arange(len(labels)), average=None, zero_division=0.0)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(labels, *columns, strict=True)
    ]


def confusion(predictions: Predictions) -> list[Any]:
    """(C, C) counts, rows true and columns predicted; multi-label: (C, 2, 2) as [[tn, fp], [fn, tp]]."""
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    truth, predicted = _for_sklearn(predictions)
    if predictions.multi_label:
        counts = multilabel_confusion_matrix(truth, predicted)
    else:
        counts = confusion_matrix(truth, predicted, labels=np.arange(predictions.truth.shape[1]))
    whole: list[Any] = counts.tolist()
    return whole


def calibration(predictions: Predictions) -> dict[str, Any]:
    """Expected calibration error over 15 equal bins, and the bins of the reliability diagram.

    Single label: confidence of the predicted class against how often it is right. Multi-label: probability of every class of
    every row against how often the class is there.
    """
    if predictions.multi_label:
        stated, hit = predictions.probabilities.ravel(), predictions.truth.ravel()
    else:
        stated, hit = predictions.confidence, predictions.correct
    which = np.minimum((stated * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(which, minlength=CALIBRATION_BINS)
    sums = np.bincount(which, weights=stated, minlength=CALIBRATION_BINS)
    hits = np.bincount(which, weights=hit, minlength=CALIBRATION_BINS)
    bins = [
        {
            "low": index / CALIBRATION_BINS,
            "high": (index + 1) / CALIBRATION_BINS,
            "rows": int(count),
            "confidence": float(sums[index] / count) if count else None,
            "accuracy": float(hits[index] / count) if count else None,
        }
        for index, count in enumerate(counts)
    ]
    return {"ece": float(np.abs(sums - hits).sum() / len(stated)), "bins": bins}


def baseline(predictions: Predictions, labels: Sequence[str]) -> dict[str, Any]:
    """The best constant answer on the same rows: always the majority class, with the label shares as probabilities.

    Shares are those of the evaluated rows themselves, which is the strongest constant: beating it is a bit harder than beating
    the majority class of the training rows.
    """
    shares = predictions.truth.mean(axis=0, dtype=np.float64)
    shape = predictions.truth.shape
    with np.errstate(divide="ignore"):
        # A class that never occurs has share 0; -1e9 stands for its logit, which is never asked for a row's loss.
        log_share = np.maximum(np.log(shares), -1e9)
        logits = log_share - np.maximum(np.log1p(-shares), -1e9) if predictions.multi_label else log_share
    constant = Predictions(
        predictions.ids, predictions.truth, np.broadcast_to(logits, shape).astype(np.float32), predictions.multi_label
    )
    answer = [labels[int(index)] for index in np.flatnonzero(constant.predicted[0])]
    return {
        "answer": answer,
        "accuracy": float(constant.correct.mean()),
        "macro_f1": macro_f1(constant),
        "loss": float(constant.losses.mean()),
    }


def confusion_csv(predictions: Predictions, labels: Sequence[str]) -> bytes:
    """``label,predicted,rows`` of the non-zero cells; multi-label: ``label,tn,fp,fn,tp``. Grows with the rows, not with C x C."""
    if predictions.multi_label:
        cells = [
            [name, *np.asarray(matrix).ravel().tolist()] for name, matrix in zip(labels, confusion(predictions), strict=True)
        ]
        return csv_bytes(["label", "tn", "fp", "fn", "tp"], cells)
    pairs = np.stack([class_indices(predictions.truth), class_indices(predictions.predicted)], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return csv_bytes(
        ["label", "predicted", "rows"], [[labels[t], labels[p], int(n)] for (t, p), n in zip(found, counts, strict=True)]
    )


def per_class_csv(metrics: dict[str, Any]) -> bytes:
    """``label,precision,recall,f1,support``."""
    header = ["label", "precision", "recall", "f1", "support"]
    return csv_bytes(header, [[row[name] for name in header] for row in metrics["classes"]])


def _for_sklearn(predictions: Predictions) -> tuple[Any, Any]:
    if predictions.multi_label:
        return predictions.truth.astype(np.int8), predictions.predicted.astype(np.int8)
    return class_indices(predictions.truth), class_indices(predictions.predicted)
