"""The history of a fit by epoch, and messages of the engine in the names of Params."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts4s_core.spark.ml.param_names import with_param_names
from ts4s_core.spark.ml.summary import TrainingSummary, epochs_of


def test_epochs_are_means_over_their_steps(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "step,epoch,loss,validation_loss,learning_rate\n1,0,4.0,,0.1\n2,0,2.0,2.5,0.1\n3,1,1.0,,0.05\n", encoding="utf-8"
    )
    summary = TrainingSummary.of({"epochs": epochs_of(metrics)})
    assert [(one.epoch, one.steps, one.loss, one.validation_loss) for one in summary.epochs] == [
        (1, 2, 3.0, 2.5),
        (2, 1, 1.0, None),
    ]
    assert summary.epochs[1].learning_rate == 0.05
    assert summary.objectiveHistory == [3.0, 1.0]
    assert summary.totalIterations == 3


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("workers 3 does not divide train.logical_shards 4", "workers 3 does not divide logicalShards 4"),
        ("Lower train.learning_rate or train.batch_size", "Lower learningRate or batchSize"),
        ("train.max_steps, train.timeout_s and model.max_length", "maxIter, timeoutSeconds and maxLength"),
        ("Version trained/fit lacks model.safetensors, train.py", "Version trained/fit lacks model.safetensors, train.py"),
    ],
)
def test_settings_have_the_names_of_params(message: str, expected: str) -> None:
    assert with_param_names(message) == expected
