from __future__ import annotations

import json

import numpy as np
import pytest

from ts4s_core.errors import DataError, NonFiniteError
from ts4s_core.evaluation.figures.metrics import confusion_csv, headline, measure, per_class_csv
from ts4s_core.evaluation.scoring.predictions import Predictions

LABELS = ["a", "b", "c"]


def ids(rows: int) -> np.ndarray:
    return np.array([f"{row:016d}".encode() for row in range(rows)], dtype="S16")


def single(truth: list[int], logits: list[list[float]]) -> Predictions:
    return Predictions(ids(len(truth)), np.eye(3, dtype=bool)[truth], np.array(logits, dtype=np.float32))


@pytest.fixture
def four() -> Predictions:
    """Truth a, a, b, b; answers a, b, b, b. c never occurs."""
    right, wrong = [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]
    return single([0, 0, 1, 1], [right, wrong, wrong, wrong])


def test_figures_of_four_rows(four: Predictions) -> None:
    figures = measure(four, LABELS)
    hit = np.exp(2) / (np.exp(2) + 2)
    miss = 1 / (np.exp(2) + 2)
    assert figures["rows"] == 4
    assert figures["accuracy"] == 0.75
    assert figures["loss"] == pytest.approx(-(3 * np.log(hit) + np.log(miss)) / 4, rel=1e-6)
    # a: precision 1, recall 1/2; b: precision 2/3, recall 1; c neither occurs nor is predicted, so it is not averaged.
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert figures["micro_f1"] == pytest.approx(0.75)
    assert figures["classes"] == [
        {"label": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        {"label": "b", "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "support": 2},
        {"label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    ]
    assert figures["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert headline(figures) == {name: figures[name] for name in ("accuracy", "macro_f1", "loss")}
    assert json.loads(json.dumps(figures)) == figures


def test_calibration_is_the_gap_between_confidence_and_accuracy(four: Predictions) -> None:
    calibration = measure(four, LABELS)["calibration"]
    confidence = np.exp(2) / (np.exp(2) + 2)
    assert calibration["ece"] == pytest.approx(abs(confidence - 0.75))
    filled = [entry for entry in calibration["bins"] if entry["rows"]]
    assert len(calibration["bins"]) == 15
    assert filled == [
        {
            "low": pytest.approx(11 / 15),
            "high": pytest.approx(12 / 15),
            "rows": 4,
            "confidence": pytest.approx(confidence),
            "accuracy": 0.75,
        }
    ]


def test_baseline_is_the_best_constant_answer() -> None:
    predictions = single([0, 0, 0, 1], [[1.0, 0.0, 0.0]] * 4)
    constant = measure(predictions, LABELS)["baseline"]
    assert constant["answer"] == ["a"]
    assert constant["accuracy"] == 0.75
    assert constant["macro_f1"] == pytest.approx((2 * 0.75 / 1.75) / 2)
    assert constant["loss"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), rel=1e-6)


def test_multi_label_figures() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=bool)
    answered = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    figures = measure(Predictions(ids(4), truth, np.where(answered, 1.0, -1.0).astype(np.float32), True), LABELS)
    assert figures["accuracy"] == 0.5  # rows 0 and 3 are right in every label
    assert figures["micro_f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert figures["macro_f1"] == pytest.approx((1 + 0 + 1) / 3)
    assert figures["loss"] == pytest.approx((10 * np.log1p(np.exp(-1)) + 2 * np.log1p(np.exp(1))) / 12)
    assert figures["confusion"] == [[[2, 0], [0, 2]], [[2, 1], [1, 0]], [[2, 0], [0, 2]]]
    assert figures["baseline"]["accuracy"] == 0.25
    assert 0 < figures["calibration"]["ece"] < 1


def test_csv_files(four: Predictions) -> None:
    assert confusion_csv(four, ["a", "b,x", "c"]) == b'label,predicted,rows\na,a,1\na,"b,x",1\n"b,x","b,x",2\n'
    table = per_class_csv(measure(four, LABELS)).decode().splitlines()
    assert table[0] == "label,precision,recall,f1,support"
    assert table[1].startswith("a,1.0,0.5,0.666")
    assert len(table) == 4


def test_matrix_of_many_classes_is_left_to_the_csv() -> None:
    truth = np.eye(101, dtype=bool)
    figures = measure(Predictions(ids(101), truth, truth.astype(np.float32)), [f"l{n}" for n in range(101)])
    assert figures["confusion"] is None
    assert figures["accuracy"] == 1.0


def test_no_rows_and_other_labels_are_refused(four: Predictions) -> None:
    with pytest.raises(DataError, match="at least one row"):
        measure(four.only(np.zeros(4, dtype=bool)), LABELS)
    with pytest.raises(DataError, match="3 classes, the dataset 2 labels"):
        measure(four, ["a", "b"])


def test_logits_that_are_not_finite_are_refused_with_the_row() -> None:
    with pytest.raises(NonFiniteError, match=r"row 30{14}31.*1 of 2 rows".replace("30{14}", "(30){15}")):
        single([0, 1], [[0.0, 1.0, 2.0], [np.nan, 0.0, 0.0]])
