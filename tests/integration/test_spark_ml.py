"""TorchEstimator and TorchModel as stages of Spark ML, in one real session, on scikit-learn's digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder, TrainValidationSplit
from spark_sessions import own_sessions
from torch import nn

from ts4s_core.errors import DataError, InputError, SettingsError, UnsupportedModelError
from ts4s_core.modules import trust as trusting
from ts4s_core.settings import SparkSettings
from ts4s_core.spark import TorchEstimator, TorchModel, trust
from ts4s_core.spark.session import SessionPlan

PIXELS = [f"p{number}" for number in range(64)]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    plan = SessionPlan(SparkSettings(master="local[4]"), 1, tmp_path_factory.mktemp("spark"))
    with own_sessions() as sessions:
        yield sessions.get(plan)


@pytest.fixture(scope="module")
def digits(spark: Any) -> Any:
    """Columns features (a vector), pixels (an array), label, name (a string) and number."""
    from pyspark.ml.functions import array_to_vector
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rows = [
        ((pixel / 16).tolist(), float(label), "abcdefghij"[label], number)
        for number, (pixel, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    table = spark.createDataFrame(rows, ["pixels", "label", "name", "number"]).withColumn("features", array_to_vector("pixels"))
    return table.cache()


def network(seed: int = 0, *, normalised: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)] if normalised else [nn.ReLU()]
    return nn.Sequential(nn.Linear(64, 32), *middle, nn.Linear(32, 10))


def accuracy(table: Any) -> float:
    return float(table.where("prediction = label").count() / table.count())


@pytest.fixture(scope="module")
def fitted(digits: Any) -> TorchModel:
    train = digits.where("number % 5 != 0")
    return TorchEstimator(module=network(), learningRate=0.01, epochs=20, batchSize=64, workers=2).fit(train)


def plain_accuracy(rows: list[Any]) -> float:
    """The same network by a plain PyTorch loop."""
    x = torch.tensor([row["pixels"] for row in rows])
    y, held_out = torch.tensor([int(row["label"]) for row in rows]), torch.tensor([row["number"] % 5 == 0 for row in rows])
    module, random = network(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _epoch in range(20):
        for batch in torch.nonzero(~held_out).flatten()[torch.randperm(int((~held_out).sum()), generator=random)].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimiser.step()
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
        ({"module": network(), "strategy": "async"}, "'async' is none of synchronous, averaging, hogwild"),
        ({"module": network(), "workers": 3}, "workers 3 does not divide train.logical_shards 4"),
        ({"module": network(), "optimizer": "Adafactor"}, "optimizer Adafactor needs whole tensors"),
        ({"module": network(), "loss": "Adam"}, "loss 'Adam' is not in torch.nn"),
        ({"module": network(), "earlyStoppingPatience": 2}, "earlyStoppingPatience needs rows"),
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


def test_classes_without_a_home_are_refused() -> None:
    class Local(nn.Linear):
        pass

    with pytest.raises(UnsupportedModelError, match="cannot be imported by name"):
        TorchEstimator(module=Local(64, 10))


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


@pytest.mark.long
def test_cross_validation_finds_the_better_rate(spark: Any, digits: Any, tmp_path: Path) -> None:
    train = digits.where("number < 500").select("features", "label")
    estimator = TorchEstimator(module=network(), epochs=4, batchSize=32, workers=1)
    grid = ParamGridBuilder().addGrid(estimator.learningRate, [1e-5, 0.02]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    validator = CrossValidator(
        estimator=Pipeline(stages=[estimator]), estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2, seed=3
    )
    found = validator.fit(train)
    assert found.avgMetrics[1] > 0.8 > found.avgMetrics[0]
    found.save(f"file://{tmp_path}/validated")
    loaded = CrossValidatorModel.load(f"file://{tmp_path}/validated")
    assert loaded.bestModel.stages[0].weights_sha256 == found.bestModel.stages[0].weights_sha256
    assert loaded.getEstimator().getStages()[0].getModule() == estimator.getModule()
    # The estimator comes back with the weights that it starts from.
    assert loaded.getEstimator().getStages()[0].start().weights_sha256() == estimator.start().weights_sha256()
    split = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, trainRatio=0.7, seed=3)
    assert split.fit(train).validationMetrics[1] > 0.8


@pytest.mark.long
def test_columns_as_arguments_of_their_own(spark: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_inputs_of_a_test.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.left, self.right, self.out = nn.Linear(64, 16), nn.Linear(1, 16), nn.Linear(16, 10)\n\n"
        "    def forward(self, pixels, number):\n"
        "        return self.out(torch.relu(self.left(pixels) + self.right(number)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    estimator = TorchEstimator(
        module="two_inputs_of_a_test:Two",
        inputCols=["features", "one"],
        separateInputs=True,
        maxIter=150,
        learningRate=0.01,
        workers=2,
    )
    table = digits.selectExpr("features", "number / 1797.0 as one", "label")
    model = estimator.fit(table)
    assert accuracy(model.transform(table)) > 0.9
    model.save(f"file://{tmp_path}/two")
    monkeypatch.setattr(trusting, "_trusted", set())
    with pytest.raises(InputError, match="which would be imported"):
        TorchModel.load(f"file://{tmp_path}/two")
    spark.conf.set("spark.ts4s.trustedModules", "two_inputs_of_a_test")
    assert TorchModel.load(f"file://{tmp_path}/two").weights_sha256 == model.weights_sha256
    spark.conf.unset("spark.ts4s.trustedModules")


@pytest.mark.long
def test_texts_with_a_tokenizer(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "bag_of_a_test.py").write_text(
        "from torch import nn\n\n"
        "class Bag(nn.Module):\n"
        "    def __init__(self, words):\n"
        "        super().__init__()\n"
        "        self.words = words\n"
        "        self.table, self.out = nn.Embedding(words, 8), nn.Linear(8, 2)\n\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        kept = attention_mask.unsqueeze(-1).float()\n"
        "        return self.out((self.table(input_ids) * kept).sum(1) / kept.sum(1).clamp(min=1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    random = np.random.default_rng(0)
    rows = []
    for _row in range(300):
        side = int(random.integers(2))
        rows.append(
            (" ".join(f"w{20 * side + random.integers(20)}" for _word in range(random.integers(1, 9))), ["cold", "warm"][side])
        )
    table = spark.createDataFrame(rows, ["text", "side"])
    estimator = TorchEstimator(
        module="bag_of_a_test:Bag", moduleArgs={"words": len(words)}, inputCol="text", labelCol="side", tokenizer=str(tmp_path),
        maxLength=6, epochs=20, learningRate=0.05, optimizer="AdamW", workers=2,
    )  # fmt: skip
    model = estimator.fit(table)
    assert model.transform(table).where("predictedLabel = side").count() > 290
    model.save(f"file://{tmp_path}/texts")
    trust("bag_of_a_test")
    assert TorchModel.load(f"file://{tmp_path}/texts").transform(table).where("predictedLabel = side").count() > 290


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # within torch's own exporter
def test_an_onnx_file_is_trained_and_saved(spark: Any, digits: Any, tmp_path: Path) -> None:
    module = network(normalised=False).eval()
    path = tmp_path / "network.onnx"
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.onnx.export(
        module, (torch.zeros(3, 64),), dynamo=True, opset_version=18, dynamic_shapes=({0: batch},), verbose=False
    )
    program.save(str(path))
    estimator = TorchEstimator(module=str(path), epochs=10, learningRate=0.01, batchSize=64, workers=1)
    model = estimator.fit(digits)
    assert accuracy(model.transform(digits)) > 0.95
    model.save(f"file://{tmp_path}/model")
    assert TorchModel.load(f"file://{tmp_path}/model").weights_sha256 == model.weights_sha256
    again = TorchModel.load(f"file://{tmp_path}/model").to_torch()
    assert sum(parameter.numel() for parameter in again.parameters()) == sum(
        parameter.numel() for parameter in module.parameters()
    )


@pytest.mark.long
def test_regression_gives_a_double(spark: Any, digits: Any) -> None:
    from pyspark.ml.evaluation import RegressionEvaluator

    table = digits.selectExpr("features", "aggregate(pixels, 0D, (a, b) -> a + b) / 10 as label")
    model = TorchEstimator(
        module=nn.Linear(64, 1), loss=nn.HuberLoss(delta=0.5), optimizer="SGD", learningRate=0.02, epochs=20, workers=1
    ).fit(table)
    predicted = model.transform(table)
    assert dict(predicted.dtypes)["prediction"] == "double"
    assert "probability" not in predicted.columns
    assert RegressionEvaluator(metricName="r2").evaluate(predicted) > 0.95


EXAMPLES = {
    "simple_dnn": lambda found: found["accuracy"] > 0.93,
    "cnn": lambda found: found["accuracy"] > 0.95,
    "lazy_load": lambda found: found["accuracy"] > 0.93 and found["hidden"] == 48,
    "autoencoder": lambda found: found["explained_variance"] > 0.6,
    "early_stopping": lambda found: found["accuracy"] > 0.93 and found["best_step"] < found["steps"] < 2_000,
    "pipeline_save_and_load": lambda found: found["accuracy"] > 0.93 and found["same"],
    "pretrained_inference": lambda found: found["accuracy"] > 0.9 and found["same"],
    "vector_out": lambda found: found["accuracy"] > 0.9 and found["numbers"] == 10 and found["largest_difference"] < 1e-6,
    "hogwild": lambda found: found["accuracy"] > 0.9,
}


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_learn(spark: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "infra" / "examples" / "spark_ml"))
    found = importlib.import_module(name).run(spark)
    assert EXAMPLES[name](found), found


@pytest.mark.stack
def test_a_cluster_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of its own, on a real standalone cluster whose executors do not have the network's module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from spark_cluster import SparkCluster

    (tmp_path / "program").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "program" / "network_of_a_cluster.py").write_text(NETWORK_OF_A_CLUSTER)
    (tmp_path / "program" / "program.py").write_text(PROGRAM_OF_A_CLUSTER)
    with SparkCluster(tmp_path / "cluster", workers=2) as cluster:
        hashes = []
        for master, conf in ((cluster.url, cluster.conf), ("local[1]", [])):
            done = subprocess.run(
                [sys.executable, str(tmp_path / "program" / "program.py"), master, str(tmp_path / "scratch"), *conf],
                capture_output=True,
                text=True,
                timeout=280,
                check=False,
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr[-3_000:]
            hashes.append(json.loads(done.stdout.splitlines()[-1]))
    assert hashes[0]["workers"] == 2
    assert hashes[1]["workers"] == 1
    assert hashes[0]["weights_sha256"] == hashes[1]["weights_sha256"]
    assert hashes[0]["accuracy"] == hashes[1]["accuracy"] > 0.8
    assert os.listdir(tmp_path / "scratch") == []


NETWORK_OF_A_CLUSTER = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.layers(x)
"""

PROGRAM_OF_A_CLUSTER = """
import json, os, sys
from network_of_a_cluster import Net
from sklearn.datasets import load_digits
from ts4s_core.spark import TorchEstimator
from ts4s_core.spark.java import find_java

def main():
    from pyspark.sql import SparkSession
    os.environ.update(find_java().environment(os.environ))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false")
    for pair in sys.argv[3:]:
        builder = builder.config(*pair.split("=", 1))
    spark = builder.getOrCreate()
    pixels, labels = load_digits(return_X_y=True)
    rows = [((pixel / 16).tolist(), float(label)) for pixel, label in zip(pixels[:400], labels[:400])]
    table = spark.createDataFrame(rows, ["features", "label"])
    estimator = TorchEstimator(module=Net, moduleArgs={"hidden": 24}, epochs=8, learningRate=0.02, scratchUri=sys.argv[2])
    model = estimator.setLogicalShards(2).fit(table)
    right = model.transform(table).where("prediction = label").count()
    print(json.dumps({**model.facts, "weights_sha256": model.weights_sha256, "accuracy": right / 400}))
    spark.stop()

if __name__ == "__main__":
    main()
"""
