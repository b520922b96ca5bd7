"""Modules as people write them, in one session whose Python workers are used again from fit to fit."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit, TrainValidationSplitModel
from torch import nn

from ts4s_core.errors import Ts4sError, UnsupportedModelError
from ts4s_core.process_state import PROCESS
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


def half_of_the_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A mean, in a list of one."""
    return (output - target).square().mean().reshape(1) / 2


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
        (
            {"module": nn.Linear(4, 3), "loss": nn.functional.cross_entropy, "weightCol": "real"},
            r"loss torch\.nn\.functional:cross_entropy of 2 rows has the shape \(\): weightCol needs a loss for each row",
        ),
        (
            {"module": nn.Linear(4, 1), "loss": half_of_the_error, "labelCol": "real", "weightCol": "real"},
            r"half_of_the_error.* has the shape \(1,\): weightCol needs a loss for each row",
        ),
    ],
    ids=["device", "shape", "loss", "ids", "mean of a function", "mean of one's own"],
)
def test_what_a_few_rows_show_is_told_before_training(table: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(Ts4sError, match=message):
        TorchEstimator(**params, maxRestarts=0).fit(table)


def test_a_class_of_the_program_alone_is_saved_as_its_graph(table: Any, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(self.drop(torch.relu(self.first(x))))
            return found

    torch.manual_seed(6)
    estimator = TorchEstimator(module=Net(), maxIter=2, batchSize=16, workers=1)
    with pytest.raises(
        UnsupportedModelError, match=r"Net cannot be saved with the estimator: .*its inputs are known after a fit"
    ):
        estimator.save(f"file://{tmp_path}/too_early")
    model = estimator.fit(table)
    expected = [row["rawPrediction"].toArray() for row in model.transform(table).collect()]
    model.save(f"file://{tmp_path}/model")
    estimator.save(f"file://{tmp_path}/estimator")
    attached = TorchModel.from_torch(model.to_torch())
    with pytest.raises(UnsupportedModelError, match=r"Net cannot be saved yet: .*Transform a table with it before"):
        attached.save(f"file://{tmp_path}/attached")
    attached.transform(table)
    attached.save(f"file://{tmp_path}/attached")

    PROCESS.clear()  # as a new process, which trusts nobody and knows no class
    for name in ("model", "attached"):
        loaded = TorchModel.load(f"file://{tmp_path}/{name}")
        assert loaded.weights_sha256 == model.weights_sha256
        found = [row["rawPrediction"].toArray() for row in loaded.transform(table).collect()]
        for own, other in zip(expected, found, strict=True):
            assert other == pytest.approx(own, rel=1e-5, abs=1e-5)
    again = TorchEstimator.load(f"file://{tmp_path}/estimator").fit(table)
    assert again.saved.paths == []
    assert again.saved.weights.keys() == model.saved.weights.keys()
    for name, array in model.saved.weights.items():
        assert again.saved.weights[name] == pytest.approx(array, abs=1e-5)


# PySpark leaves the threads of its parallel fits to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
@pytest.mark.long
def test_a_grid_of_classes_of_the_program_alone_is_saved_as_graphs(table: Any, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, hidden: int = 3) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, hidden), nn.Linear(hidden, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(torch.tanh(self.first(x)))
            return found

    torch.manual_seed(7)
    estimator = TorchEstimator(moduleArgs={"hidden": 5}, maxIter=2, batchSize=16, workers=1)
    optimizers = [functools.partial(torch.optim.SGD, lr=0.5, momentum=0.5)]
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.module, [Net, lambda hidden: Net(2 * hidden)])
        .addGrid(estimator.optimizer, optimizers)
    )
    split = TrainValidationSplit(
        estimator=estimator, estimatorParamMaps=grid.build(), evaluator=MulticlassClassificationEvaluator(), seed=1
    )
    tuned = split.fit(table)
    expected = [row["rawPrediction"].toArray() for row in tuned.transform(table).collect()]
    starts = [estimator.copy(values) for values in tuned.getEstimatorParamMaps()]
    hidden = [len(start.start().weights["first.bias"]) for start in starts]
    trained = [start.fit(table).saved.weights for start in starts]
    tuned.save(f"file://{tmp_path}/tuned")

    PROCESS.clear()  # as a new process, which trusts nobody and knows no class
    loaded = TrainValidationSplitModel.load(f"file://{tmp_path}/tuned")
    assert loaded.validationMetrics == tuned.validationMetrics
    assert loaded.bestModel.weights_sha256 == tuned.bestModel.weights_sha256
    for own, row in zip(expected, loaded.transform(table).collect(), strict=True):
        assert row["rawPrediction"].toArray() == pytest.approx(own, rel=1e-5, abs=1e-5)
    assert hidden == [5, 10]
    for weights, values in zip(trained, loaded.getEstimatorParamMaps(), strict=True):
        again = loaded.getEstimator().copy(values)
        assert (again.getOptimizer(), again.getOptimizerArgs(), again.getLearningRate()) == (
            "torch.optim:SGD",
            {"momentum": 0.5},
            0.5,
        )
        model = again.fit(table)
        assert model.saved.paths == []
        for name, array in weights.items():
            assert model.saved.weights[name] == pytest.approx(array, abs=1e-5)


@pytest.mark.parametrize("name", ["loss", "optimizer"])
def test_what_a_grid_cannot_save_is_told_where_it_is_saved(table: Any, tmp_path: Path, name: str) -> None:
    class Slow(torch.optim.SGD):
        pass

    values = {"loss": lambda output, target: (output - target.float()).square().mean(), "optimizer": Slow}
    estimator = TorchEstimator(module=nn.Linear(4, 1), loss="MSELoss", maxIter=1, batchSize=60, workers=1)
    grid = [{estimator.getParam(name): values[name]}]
    assert estimator.fit(table, grid[0]).weights_sha256 != estimator.start().weights_sha256()
    split = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=MulticlassClassificationEvaluator())
    with pytest.raises(UnsupportedModelError, match=r"cannot be saved.*it is of this program alone, and code is never saved"):
        split.save(f"file://{tmp_path}/split")


def test_what_could_never_be_saved_is_refused_by_fit(table: Any) -> None:
    class Turning(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    with pytest.raises(UnsupportedModelError, match=r"^Turning has no import path.*Put its class into a \.py file"):
        fitted(table, Turning(4, 3))


@pytest.mark.parametrize(("workers", "loss"), [(1, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))), (2, "MSELoss")])
def test_a_module_of_doubles_is_trained_in_doubles(table: Any, workers: int, loss: Any) -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3 if workers == 1 else 1)).double()
    label = "label" if workers == 1 else "real"
    params = {"loss": loss, "labelCol": label, "optimizer": "SGD", "learningRate": 0.5, "batchSize": 60, "maxIter": 3}
    model = TorchEstimator(module=module, workers=workers, logicalShards=2, **params).fit(table)
    rows = table.select("features", label).collect()
    x = torch.tensor([row["features"] for row in rows]).float().double()
    y = torch.tensor([row[label] for row in rows]) if workers == 1 else torch.tensor([[row[label]] for row in rows]).double()
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double()) if workers == 1 else nn.MSELoss()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _step in range(3):
        optimizer.zero_grad()
        criterion(module(x), y).backward()
        optimizer.step()
    for name, tensor in module.state_dict().items():
        assert model.saved.weights[name].dtype == "float64"
        assert model.saved.weights[name] == pytest.approx(tensor.numpy(), rel=1e-10, abs=1e-10)
    assert next(model.to_torch().parameters()).dtype == torch.float64
    with pytest.raises(Ts4sError, match="strategy averaging trains modules of single precision alone"):
        TorchEstimator(module=module, strategy="averaging", **{**params, "optimizer": "Adam"}).fit(table)
