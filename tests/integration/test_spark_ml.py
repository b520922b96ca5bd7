"""TorchEstimator and TorchModel as stages of Spark ML, in one real session, on scikit-learn's digits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digit_networks import accuracy, network
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from torch import nn

from ts4s_core.errors import DataError, InputError, SettingsError
from ts4s_core.spark import TorchEstimator, TorchModel

OLD_STAGES = Path(__file__).parents[1] / "data" / "spark_ml_of_5bf3a8e"
PIXELS = [f"p{number}" for number in range(64)]


@pytest.fixture(scope="module")
def fitted(digits: Any) -> TorchModel:
    train = digits.where("number % 5 != 0")
    return TorchEstimator(module=network(), learningRate=0.01, epochs=20, batchSize=64, workers=2).fit(train)


def plain_accuracy(rows: list[Any]) -> float:
    """The same network by a plain PyTorch loop."""
    x = torch.tensor([row["pixels"] for row in rows])
    y, held_out = torch.tensor([int(row["label"]) for row in rows]), torch.tensor([row["number"] % 5 == 0 for row in rows])
    module, random = network(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _epoch in range(20):
        for batch in torch.nonzero(~held_out).flatten()[torch.randperm(int((~held_out).sum()), generator=random)].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return float((module(x[held_out]).argmax(1) == y[held_out]).float().mean())


def test_it_learns_as_a_plain_loop_does(digits: Any, fitted: TorchModel) -> None:
    found = accuracy(fitted.transform(digits.where("number % 5 = 0")))
    expected = plain_accuracy(digits.select("pixels", "label", "number").collect())
    assert found >= 0.95
    assert abs(found - expected) <= 0.01, (found, expected)


def test_columns_are_what_spark_ml_expects(digits: Any, fitted: TorchModel) -> None:
    row = fitted.transform(digits.where("number = 7")).first()
    module = fitted.to_torch()
    with torch.inference_mode():
        logits = module(torch.tensor([row["pixels"]])).double()[0]
    assert np.allclose(row["rawPrediction"].toArray(), logits, atol=1e-6)
    assert np.allclose(row["probability"].toArray(), logits.softmax(0), atol=1e-6)
    assert row["prediction"] == float(logits.argmax())
    evaluated = fitted.transform(digits)
    assert MulticlassClassificationEvaluator(metricName="logLoss").evaluate(evaluated) < 0.2
    assert not module.training


def test_one_hash_for_any_number_of_workers_and_any_order(digits: Any) -> None:
    train = digits.where("number < 150")
    hashes = set()
    for workers, table in ((1, train), (2, train.repartition(5)), (4, train.orderBy("label").coalesce(1))):
        estimator = TorchEstimator(
            module=network(normalised=True), optimizer="RMSprop", optimizerArgs={"momentum": 0.5}, epochs=2, batchSize=37, seed=5
        )
        model = estimator.fit(table, {estimator.workers: workers})  # a param map, as CrossValidator gives
        assert model.facts["workers"] == workers
        hashes.add((model.weights_sha256, model.facts["weights_sha256"]))
    assert len(hashes) == 1


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pipeline_is_saved_overwritten_and_loaded(spark: Any, digits: Any, fitted: TorchModel, tmp_path: Path) -> None:
    table = digits.select(*(digits["pixels"][number].alias(name) for number, name in enumerate(PIXELS)), "label").limit(50)
    prepared = Pipeline(stages=[VectorAssembler(inputCols=PIXELS, outputCol="features")]).fit(table)
    pipeline = fitted.copy({fitted.predictionCol: "found"}).attach_to(prepared)
    path = f"file://{tmp_path}/pipeline"
    pipeline.save(path)
    pipeline.write().overwrite().save(path)
    loaded = PipelineModel.load(path)
    assert isinstance(loaded.stages[1], TorchModel)
    assert loaded.stages[1].uid == fitted.uid
    columns = ["found", "probability", "rawPrediction"]
    assert loaded.transform(table).select(columns).collect() == pipeline.transform(table).select(columns).collect()
    assert loaded.stages[1].weights_sha256 == fitted.weights_sha256
    names = {name.rpartition("/")[2] for name in files_below(tmp_path)} - {"_SUCCESS", "._SUCCESS.crc"}
    assert {"model.json", "model.safetensors"} <= names
    assert not [name for name in names if not name.lstrip(".").startswith(("part-", "model.json", "model.safetensors"))]
    # No pickle: protocol 2 and later begin with 0x80 and the number of the protocol.
    assert not [name for name, data in files_below(tmp_path).items() if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05"]


def test_stages_that_5bf3a8e_saved_load_and_predict_the_same(spark: Any) -> None:
    expected = json.loads((OLD_STAGES / "expected.json").read_text(encoding="utf-8"))
    model = PipelineModel.load(f"file://{OLD_STAGES}/pipeline")
    assert model.stages[1].weights_sha256 == expected["weights_sha256"]
    rows = spark.createDataFrame([(number, *row[:2]) for number, row in enumerate(expected["rows"])], "n int, a double, b double")
    found = model.transform(rows).orderBy("n").collect()
    assert [row.prediction for row in found] == [row[2] for row in expected["rows"]]
    for row, (_a, _b, _prediction, probability) in zip(found, expected["rows"], strict=True):
        assert row.probability.toArray() == pytest.approx(probability, abs=1e-6)
    estimator = TorchEstimator.load(f"file://{OLD_STAGES}/estimator")
    assert (estimator.getOrDefault("epochs"), estimator.getOrDefault("optimizer")) == (3, "Adam")
    train = spark.createDataFrame([(Vectors.dense(row[:2]), row[2]) for row in expected["rows"] * 16], ["features", "label"])
    assert estimator.fit(train).facts["steps"] == 15


def test_a_foreign_factory_is_not_imported(
    spark: Any, fitted: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_of_a_test.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = f"file://{tmp_path}/model"
    fitted.save(path)
    file = tmp_path / "model" / "data" / "model.json"
    record = json.loads(file.read_text())
    record["module"] = {"factory": "evil_of_a_test:Net", "arguments": {}}
    file.write_text(json.dumps(record))
    for sum_file in file.parent.glob(".*.crc"):
        sum_file.unlink()
    with pytest.raises(
        InputError, match=r"names 'evil_of_a_test:Net', which would be imported.*spark\.trust\('evil_of_a_test'\)"
    ):
        TorchModel.load(path)
    assert "evil_of_a_test" not in sys.modules


@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("module", "evil_of_a_test"),
        ("module", "evil_of_a_test:Net"),
        ("loss", "evil_of_a_test:Net"),
        ("loss", "evil_of_a_test"),
        ("optimizer", "evil_of_a_test.Net"),
        ("optimizer", "evil_of_a_test"),
    ],
)
def test_a_saved_estimator_imports_nothing_that_it_names(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, param: str, name: str
) -> None:
    (tmp_path / "evil_of_a_test.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = f"file://{tmp_path}/estimator"
    TorchEstimator(module=network(), loss="CrossEntropyLoss", optimizer="Adam").save(path)
    (file,) = (tmp_path / "estimator" / "metadata").glob("part-*")
    record = json.loads(file.read_text())
    record["paramMap"][param] = name
    file.write_text(json.dumps(record))
    for sum_file in file.parent.glob(".*.crc"):
        sum_file.unlink()
    with pytest.raises(InputError, match=r"which would be imported|is not in torch"):
        TorchEstimator.load(path).fit(spark.range(1))
    assert "evil_of_a_test" not in sys.modules


def test_nothing_stays_behind_and_the_driver_sees_no_row(spark: Any, digits: Any, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tracker = spark.sparkContext._jsc.sc().getPersistentRDDs().size()
    TorchEstimator(module=network(), maxIter=3, batchSize=16, scratchUri=str(scratch), workers=1).fit(digits.where("number < 80"))
    assert os.listdir(scratch) == []
    assert spark.sparkContext._jsc.sc().getPersistentRDDs().size() == tracker


def test_label_strings_and_rows_without_values(spark: Any, digits: Any) -> None:
    train = digits.where("number < 200")
    estimator = TorchEstimator(
        module=network(), inputCol="pixels", labelCol="name", maxIter=40, learningRate=0.02, handleInvalid="skip", workers=1
    )
    holes = spark.createDataFrame(
        [(None, "a"), ([0.1] * 63 + [None], "b"), ([0.2] * 64, None)], "pixels array<double>, name string"
    )
    both = train.select("pixels", "name").unionByName(holes)
    model = estimator.fit(both)
    assert model.labels == tuple("abcdefghij")
    kept = model.copy({model.handleInvalid: "keep"}).transform(both)
    assert kept.count() == 203
    assert kept.where("prediction is null").count() == 2
    assert kept.where("predictedLabel = name").count() > 150
    assert model.transform(both).count() == 201
    with pytest.raises(DataError, match="3 rows have null in their input or label"):
        estimator.copy({estimator.handleInvalid: "error"}).fit(both)
    with pytest.raises(Exception, match="rows have null in their input"):
        model.copy({model.handleInvalid: "error"}).transform(both).select("prediction").collect()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module": network(), "learning_rate": 1}, "no parameter 'learning_rate': did you mean learningRate"),
        ({"module": network(), "epochs": 0}, "epochs 0 is below 1"),
        ({"module": network(), "strategy": "async"}, "'async' is not valid: expected one of synchronous, averaging, hogwild"),
        ({"module": network(), "workers": 3}, "workers 3 does not divide logicalShards 4"),
        ({"module": network(), "optimizer": "Adafactor"}, "optimizer Adafactor needs whole tensors"),
        ({"module": network(), "loss": "Adam"}, "loss 'Adam' is not in torch.nn"),
        ({"module": network(), "earlyStoppingPatience": 2}, "earlyStoppingPatience needs validation rows"),
        ({"module": network(), "inputCol": "nothing"}, "has no column nothing"),
        ({"module": network(), "inputCol": "name"}, "Column name is string: expected a vector"),
        ({"module": network(), "inputShape": [1, 8, 9]}, r"inputShape \[1, 8, 9\] holds 72 numbers"),
        pytest.param({"module": "torch.nn:Linear"}, "missing .* required positional arguments", marks=pytest.mark.long),
        ({}, "module is None"),
    ],
    ids=lambda value: "-".join(name for name in value if name != "module") if isinstance(value, dict) else "",
)
def test_mistakes_are_told_in_one_line(digits: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingsError, InputError, DataError), match=message) as caught:
        TorchEstimator(**{"maxRestarts": 0, **params}).fit(digits.where("number < 40"))
    assert "\n" not in str(caught.value)


def test_setters_and_getters_are_sparks(digits: Any) -> None:
    estimator = TorchEstimator().setModule(network()).setEpochs(3).setLearningRate(0.5).setInputCol("pixels").setLabelCol(None)
    assert (estimator.getEpochs(), estimator.getLearningRate(), estimator.getInputCol(), estimator.getLabelCol()) == (
        3,
        0.5,
        "pixels",
        "",
    )
    assert "dropout" not in estimator.explainParams()
    assert "earlyStoppingPatience" in estimator.explainParams()
