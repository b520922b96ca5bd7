"""What TorchEstimator takes: networks of one's own with several inputs, texts, ONNX files, numbers to predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digit_networks import accuracy, network
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.dataset import Dataset
from ts4s_core.errors import DataError, InputError
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.table_rows import TableRows
from ts4s_core.process_state import PROCESS
from ts4s_core.settings import StorageSettings
from ts4s_core.spark import TorchEstimator, TorchModel, trust
from ts4s_core.spark.ml.columns import input_column
from ts4s_core.spark.ml.rows import Layout, write_rows


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
    PROCESS.clear()  # as a new process, which trusts nobody
    with pytest.raises(InputError, match="which would be imported"):
        TorchModel.load(f"file://{tmp_path}/two")
    spark.conf.set("spark.ts4s.trustedModules", "two_inputs_of_a_test")
    assert TorchModel.load(f"file://{tmp_path}/two").weights_sha256 == model.weights_sha256
    spark.conf.unset("spark.ts4s.trustedModules")


@pytest.mark.parametrize(
    ("rows", "rows_per_batch", "partitions"),
    [
        (255, 7, 3),
        (20_100, 10_000, 2),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((1, 1, 1), (257, 256, 2), (600, 100, 1), (1_025, 1, 2), (20_223, 10_000, 1))
        ),
    ],
)
def test_any_number_of_rows_in_batches_of_any_size(
    spark: Any, tmp_path: Path, rows: int, rows_per_batch: int, partitions: int
) -> None:
    """Some of these left an empty row group, which nobody could read back."""
    form = InputForm(widths=(2,))
    layout = Layout(form, "class", {}, files=1, validation_fraction=0.3 if rows > 1 else 0.0, seed=5, tokenizer=None)
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    table = spark.range(0, rows, 1, partitions).selectExpr("array(float(id), float(1)) as x", "id % 3 as y")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", rows_per_batch)
    try:
        ref, counts = write_rows(table, store, layout=layout)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert sum(counts.values()) == rows
    with Dataset.open(store, ref) as dataset:
        source, found = TableRows(dataset, form, labelled=True), {}
        for side in ("train", "validation"):
            groups = source.rows_per_group(side)
            full, left = divmod(counts[side], 256)
            assert list(groups) == [256] * full + [left] * bool(left)
            for number in range(len(groups)):
                part: Any = source.read(side, [number]).batch(np.arange(groups[number]), pad_id=0)
                found |= dict(zip(part.inputs[0][:, 0].tolist(), part.labels.tolist(), strict=True))
    assert found == {float(number): number % 3 for number in range(rows)}


ARRAYS = ("array<double>", "array<float>", "whole")
BAD_NUMBERS = [float("nan"), float("inf"), float("-inf"), None]


@pytest.mark.parametrize("form", ["vector", "columns", *(pytest.param(form, marks=pytest.mark.long) for form in ARRAYS)])
def test_numbers_that_are_invalid_are_handled_as_null_is(spark: Any, form: str) -> None:
    """As VectorAssembler's handleInvalid has it for null and NaN; infinite numbers are ours to add."""
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    found = BAD_NUMBERS if form != "vector" else BAD_NUMBERS[:3]
    rows = [(at, 0.5 * at, 1.0) for at in range(6)] + [(100 + at, bad, 1.0) for at, bad in enumerate(found)]
    frame = spark.createDataFrame(rows, "n int, a double, b double")
    if form == "columns":
        frame, inputs = frame.withColumnRenamed("a", "a.x"), {"inputCols": ["a.x", "b"]}
    else:
        kind = form if form.startswith("array") else "array<double>"
        frame = frame.selectExpr("n", f"cast(array(a, b) as {kind}) as features")
        inputs = {"inputCol": "features"}
    if form == "vector":
        from pyspark.ml.functions import array_to_vector

        frame = frame.withColumn("features", array_to_vector("features"))
    if form == "whole":
        inputs["wholeNumbers"], module = True, nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(6, 3))
    model = TorchModel.from_torch(module, output="class", activation="softmax", **inputs)
    kept = {row["n"]: row for row in model.copy({model.handleInvalid: "keep"}).transform(frame).collect()}
    assert len(kept) == len(rows)
    for number, row in kept.items():
        assert (row["prediction"] is None) == (row["probability"] is None) == (row["rawPrediction"] is None) == (number >= 100)
    skipped = model.copy({model.handleInvalid: "skip"}).transform(frame).collect()
    assert sorted(row["n"] for row in skipped) == list(range(6))
    assert {row["n"]: row["prediction"] for row in skipped} == {at: kept[at]["prediction"] for at in range(6)}
    with pytest.raises(Exception, match=r"rows have null in their input \(or NaN, an infinite number"):
        model.transform(frame).collect()
    assert model.transform(frame.where("n < 100")).count() == 6


def test_a_vector_is_one_array_in_either_form(spark: Any) -> None:
    """Null where it is null or has a number that is none; an array is valid without numbers too, and not with a null."""
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql.types import StructField, StructType

    found = [
        (Vectors.dense([1.5, 0.0, -2.0]), [1.5, 0.0, -2.0], 3),
        (Vectors.sparse(4, {1: 2.5, 3: -1.0}), [0.0, 2.5, 0.0, -1.0], 4),
        (Vectors.sparse(3, []), [0.0, 0.0, 0.0], 3),
        (Vectors.dense([]), [], 0),
        (Vectors.dense([1.0, float("nan")]), None, 2),
        (Vectors.dense([1e39, 1.0]), None, 2),  # more than a float holds
        (Vectors.sparse(5, {2: float("-inf")}), None, 5),
        (None, None, None),
    ]
    frame = spark.createDataFrame([(vector,) for vector, *_ in found], StructType([StructField("v", VectorUDT())]))
    x, (size,) = input_column(frame, ["v"], text=False, whole=False)
    for row, (vector, numbers, width) in zip(frame.select(x.alias("x"), size.alias("w")).collect(), found, strict=True):
        assert (row["x"], row["w"]) == (numbers, -1 if vector is None and row["w"] == -1 else width)
    arrays = [([], []), ([3.0, None], None), ([None], None), ([-1e308], None), ([0.25, -7.0], [0.25, -7.0])]
    table = spark.createDataFrame([(array,) for array, _ in arrays], "a array<double>")
    x, _sizes = input_column(table, ["a"], text=False, whole=False)
    assert [row[0] for row in table.select(x).collect()] == [numbers for _, numbers in arrays]


@pytest.mark.parametrize(("label", "bad"), [("double", 3), ("array<double>", 3), ("string", 1)])
def test_rows_that_cannot_be_trained_on_are_refused_or_left_out(spark: Any, label: str, bad: int) -> None:
    good = [(float(at), {"double": at % 2, "array<double>": [0.5, at], "string": "ab"[at % 2]}[label]) for at in range(20)]
    wrong = {
        "double": [None, float("nan"), float("inf")],
        "array<double>": [[0.5, None], [float("nan"), 1.0], [float("inf"), 1.0]],
        "string": ["a\0b"],
    }[label]
    rows = [(x, [float(part) for part in y] if isinstance(y, list) else float(y) if label == "double" else y) for x, y in good]
    frame = spark.createDataFrame(rows + [(1.0, y) for y in wrong], f"x double, label {label}")
    loss = "MSELoss" if label.startswith("array") else "CrossEntropyLoss"
    estimator = TorchEstimator(module=nn.Linear(1, 2), loss=loss, inputCol="x", epochs=1, workers=1)
    with pytest.raises(DataError, match=rf"^{bad} rows have null in their input or label \(or NaN, an infinite number"):
        estimator.fit(frame)


@pytest.mark.parametrize(
    ("labels", "outputs", "message"),
    [
        (
            "1 + id % 3",
            3,
            r"^Labels need 4 outputs \(the largest is '3'\): the module has 3\. Number them from 0",
        ),
        ("id % 7", 2, r"^Labels need 7 outputs \(the largest is '6'\): the module has 2\."),
        (
            "concat('k', id % 4)",
            3,
            r"^Labels need 4 outputs \(the largest is 'k3'\): the module has 3\. Give the",
        ),
    ],
)
def test_labels_beyond_the_outputs_are_refused_before_training(spark: Any, labels: str, outputs: int, message: str) -> None:
    frame = spark.range(30).selectExpr("array(float(id), 1f) as features", f"{labels} as label")
    with pytest.raises(DataError, match=message):
        TorchEstimator(module=nn.Linear(2, outputs), loss="CrossEntropyLoss", epochs=1, workers=1).fit(frame)
    with pytest.raises(InputError, match=r"^The module's forward fails on the first rows: RuntimeError"):
        TorchEstimator(module=nn.Linear(5, outputs), loss="CrossEntropyLoss", epochs=1, workers=1).fit(frame)


@pytest.mark.long
def test_a_fit_whose_last_batch_leaves_few_rows(spark: Any) -> None:
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 100)
    try:
        table = spark.range(0, 700, 1, 2).selectExpr("array(float(id % 7), float(id % 5)) as features", "id % 2 as label")
        model = TorchEstimator(module=nn.Linear(2, 2), epochs=1, batchSize=128, workers=2).fit(table)
        assert model.facts["steps"] == 6
        assert model.transform(table).where("prediction in (0, 1)").count() == 700
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


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
