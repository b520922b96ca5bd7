"""Modules as people write them, in one session whose Python workers are used again from fit to fit."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ts4s_core.errors import Ts4sError
from ts4s_core.spark import TorchEstimator, TorchModel

EDITED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) * SCALE
"""


@pytest.fixture(scope="module")
def table(spark: Any) -> Any:
    rows = [([float(number % 7), number % 5 / 5, 1.0, float(number % 3)], number % 3, number % 7 / 2) for number in range(60)]
    return spark.createDataFrame(rows, "features array<double>, label int, real double").repartition(2).cache()


def fitted(table: Any, module: Any, **params: Any) -> TorchModel:
    return TorchEstimator(**{"module": module, "maxIter": 2, "batchSize": 16, "workers": 2, **params}).fit(table)


def test_an_edited_and_reloaded_module_trains_its_new_forward(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    file, found = tmp_path / "edited_in_a_test.py", []
    for scale in ("1.0", "30.0"):
        file.write_text(EDITED.replace("SCALE", scale))
        importlib.invalidate_caches()
        edited = importlib.import_module("edited_in_a_test") if not found else importlib.reload(sys.modules["edited_in_a_test"])
        torch.manual_seed(0)
        model = fitted(table, edited.Net())
        found.append(model.weights_sha256)
    assert found[0] != found[1]
    row, module = model.transform(table).first(), model.to_torch()
    assert row["rawPrediction"].toArray() == pytest.approx(module(torch.tensor([row["features"]]))[0].tolist(), rel=1e-5)


def test_one_number_of_a_module_from_elsewhere_is_that_number(table: Any) -> None:
    torch.manual_seed(1)
    module = nn.Linear(4, 1)
    row = TorchModel.from_torch(module).transform(table).first()
    assert row["prediction"] == pytest.approx(module(torch.tensor([row["features"]])).item(), abs=1e-6)
    assert "rawPrediction" not in row
    by_class = TorchModel.from_torch(module, activation="sigmoid").transform(table).first()
    assert by_class["prediction"] == float(row["prediction"] > 0)
    several = TorchModel.from_torch(nn.Linear(4, 3)).transform(table)
    assert {"prediction", "probability", "rawPrediction"} <= set(several.columns)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module": nn.Linear(4, 3), "device": "gpu"}, "device 'gpu' is not valid: expected cpu, cuda or cuda:N"),
        ({"module": nn.Linear(5, 3)}, "forward fails on the first rows: RuntimeError"),
        ({"module": nn.Linear(4, 2), "loss": "MSELoss", "labelCol": "real"}, r"outputs of shape \(2, 2\) with labels of shape"),
        ({"module": nn.Sequential(nn.Embedding(2, 3), nn.Flatten()), "wholeNumbers": True}, "the largest number 6"),
    ],
    ids=["device", "shape", "loss", "ids"],
)
def test_what_a_few_rows_show_is_told_before_training(table: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(Ts4sError, match=message):
        TorchEstimator(**params, maxRestarts=0).fit(table)
