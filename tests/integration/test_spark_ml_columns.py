"""What else a fit takes of a table and says of itself: fields, weights, classes for losses of one's own, bytes, history, SQL."""

from __future__ import annotations

import logging
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_networks import network
from pyspark.errors import PythonException
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit
from torch import nn

from ts4s_core.errors import DataError, SettingsError
from ts4s_core.spark import TorchEstimator, TorchModel


@pytest.fixture(scope="module")
def fitted(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEstimator, TorchModel, list[str]]:
    """A fit with fields of structs, weights, a loss of one's own over classes and a validation share; and its warnings."""
    folder = tmp_path_factory.mktemp("losses")
    (folder / "losses_of_a_test.py").write_text(
        "def squared_margin(output, target):\n"
        "    right = output.gather(1, target[:, None])[:, 0]\n"
        "    return (right - 1) ** 2 + (output ** 2).sum(1) - right ** 2\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        estimator = TorchEstimator(
            module=network(),
            inputCol="row.features",
            labelCol="row.kind.label",
            labelKind="class",
            weightCol="weight",
            loss="losses_of_a_test:squared_margin",
            learningRate=0.02,
            batchSize=64,
            epochs=5,
            validationFraction=0.2,
            logicalShards=2,
        )
        table = digits.selectExpr(
            "named_struct('features', features, 'kind', named_struct('label', label)) as row", "if(label = 9, 0, 1) as weight"
        )
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("ts4s_core.spark.ml.fit")
        logger.addHandler(handler)
        try:
            return estimator, estimator.fit(table), records
        finally:
            logger.removeHandler(handler)


def test_fields_weights_and_a_loss_over_classes(digits: Any, fitted: Any) -> None:
    _estimator, model, _warnings = fitted
    table = digits.selectExpr("named_struct('features', features) as row", "label")
    scored = model.transform(table)
    assert scored.where("label < 9 and prediction = label").count() / scored.where("label < 9").count() > 0.9
    assert scored.where("prediction = 9").count() == 0  # rows of weight 0 teach nothing
    with pytest.raises(DataError, match=r"has no column row\.pixels: it has row, label"):
        model.copy({model.inputCol: "row.pixels"}).transform(table)


def test_a_validation_share_is_reported_by_epoch(fitted: Any) -> None:
    estimator, model, warnings = fitted
    epochs = model.summary.epochs
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4, 5]
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].validation_loss < epochs[0].validation_loss
    assert model.facts["validation_loss"] == epochs[-1].validation_loss
    assert model.summary.totalIterations == model.facts["steps"]
    assert {epoch.learning_rate for epoch in epochs} == {0.02}
    assert model.parent is estimator
    assert warnings == ["workers 0 takes 2 of 4 slots, because logicalShards is 2: raise it to use more"]
    with pytest.raises(SettingsError, match="no training summary"):
        _ = TorchModel.from_torch(nn.Linear(2, 2)).summary


def test_a_model_is_a_function_of_sql(spark: Any, digits: Any, fitted: Any) -> None:
    _estimator, model, _warnings = fitted
    scored = model.transform(digits.selectExpr("named_struct('features', features) as row", "number"))
    expected = {row["number"]: row["prediction"] for row in scored.where("number < 20").collect()}
    spark.udf.register("digit_of", model.copy({model.handleInvalid: "keep"}).udf())
    digits.createOrReplaceTempView("digits_of_sql")
    found = spark.sql("select number, digit_of(pixels).prediction as digit from digits_of_sql where number < 20").collect()
    assert {row["number"]: row["digit"] for row in found} == expected
    assert spark.sql("select digit_of(array(1.0d, double('NaN'))) as scores").first()["scores"] is None


def beside_module() -> nn.Module:
    """Of a class that travels to workers: they do not have this file."""

    class Beside(nn.Module):
        """Two inputs, the second one a number."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(1, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.left(left) - self.right(right)

    return Beside()


def pairs_module() -> nn.Module:
    """Likewise."""

    class Pairs(nn.Module):
        """Token ids and their kinds, of unlike length from row to row."""

        def __init__(self) -> None:
            super().__init__()
            self.ids, self.kinds, self.out = nn.Embedding(9, 4), nn.Embedding(2, 4), nn.Linear(4, 2)

        def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.out((self.ids(input_ids) + self.kinds(token_type_ids)).mean(1))
            return found

    return Pairs()


def test_a_function_of_sql_takes_a_module_s_inputs(spark: Any) -> None:
    torch.manual_seed(4)
    frame = spark.createDataFrame(
        [([1.0, 2.0], 3.0, [1, 2, 3], [0, 0, 1]), ([4.0, 5.0], None, [4], [1]), ([0.5, 6.0], -1.0, [5, 6], [0, 1])],
        "a array<double>, b double, input_ids array<int>, token_type_ids array<int>",
    )
    frame.createOrReplaceTempView("of_several")
    beside = TorchModel.from_torch(
        beside_module(), inputCols=["a", "b"], inputNames=["left", "right"], output="vector", handleInvalid="keep"
    )
    by_place = TorchModel.from_torch(
        beside.to_torch(), inputCols=["a", "b"], separateInputs=True, output="vector", handleInvalid="keep"
    )
    pairs = TorchModel.from_torch(pairs_module(), inputCols=["input_ids", "token_type_ids"], output="vector", wholeNumbers=True)
    expected = [row["prediction"] and row["prediction"].toArray().tolist() for row in beside.transform(frame).collect()]
    assert expected[1] is None
    for model in (beside, by_place):
        spark.udf.register("of_two", model.udf())
        found = spark.sql("select of_two(a, b).raw as raw from of_several").collect()
        assert [row["raw"] for row in found] == expected
    with pytest.raises(PythonException, match="how many of them each of the 2 inputCols has is not known"):
        spark.sql("select of_two(array(a[0], a[1], b)).raw from of_several where b = 3").collect()
    spark.udf.register("of_pairs", pairs.udf())
    found = spark.sql("select of_pairs(input_ids, token_type_ids).raw as raw from of_several").collect()
    scored = pairs.transform(frame).collect()
    for row, other in zip(found, scored, strict=True):
        assert row["raw"] == pytest.approx(other["prediction"].toArray().tolist(), rel=1e-6)


@pytest.mark.parametrize("column", ["text", "tokens"])
def test_weights_of_texts_and_tokens(spark: Any, tmp_path: Path, column: str) -> None:
    """Rows of weight 0, whose labels are wrong, teach nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["[PAD]", *"abcdefgh"])}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = []
    for at in range(48):
        words = [1 + (at * 3 + at // 4 + place) % 4 + 4 * (at % 2) for place in range(1 + at % 3)]
        wrong = at % 4 == 2 + at % 2
        rows.append(
            (" ".join(" abcdefgh"[word] for word in words), words, at % 2 if not wrong else 1 - at % 2, 0.0 if wrong else 1.0)
        )
    table = spark.createDataFrame(rows, "text string, tokens array<int>, label int, weight double")
    torch.manual_seed(0)
    kind = {"tokenizer": str(tmp_path)} if column == "text" else {}
    model = TorchEstimator(
        module=bag(), inputCol=column, weightCol="weight", learningRate=0.1, epochs=15, batchSize=16, workers=2, **kind
    ).fit(table)
    assert model.transform(table).where("weight = 1 and prediction = label").count() == sum(row[3] == 1 for row in rows)
    assert model.transform(table).where("weight = 0 and prediction = label").count() == 0


def bag() -> nn.Module:
    """Likewise."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            kept = attention_mask.unsqueeze(-1).float()
            found: torch.Tensor = self.out((self.table(input_ids) * kept).sum(1) / kept.sum(1).clamp(min=1))
            return found

    return Bag()


def test_the_whole_configuration_of_a_tokenizer_is_read(spark: Any, tmp_path: Path) -> None:
    """Cut on the left to its own length, padded with its own token; saved with the model."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", *(f"w{at}" for at in range(20)), "[PAD]"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "truncation_side": "left", "model_max_length": 3}
    described |= {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))

    class Ids(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return (input_ids * torch.tensor([10_000, 100, 1])[: input_ids.shape[1]]).sum(1, keepdim=True).float()

    table = spark.createDataFrame([("w9 w8 w7 w6 w5",), ("w3",)], "text string")
    model = TorchModel.from_torch(Ids(), inputCol="text", tokenizer=str(tmp_path), output="value", predictBatchSize=8)
    pad = words.index("[PAD]")
    expected = [80_000.0 + 700 + 6, 40_000.0 + 100 * pad + pad]
    assert sorted(row["prediction"] for row in model.transform(table.coalesce(1)).collect()) == sorted(expected)
    model.save(f"file://{tmp_path}/model")
    loaded = TorchModel.load(f"file://{tmp_path}/model")
    assert sorted(row["prediction"] for row in loaded.transform(table.coalesce(1)).collect()) == sorted(expected)


def png(width: int, height: int, rows: bytes) -> bytes:
    """An RGB image, without filters."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + rows[start : start + 3 * width] for start in range(0, len(rows), 3 * width))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_images_and_files_are_their_bytes(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(png(2, 1, bytes([1, 2, 3, 40, 50, 60])))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(bytes([0, 255, 7]))
    (tmp_path / "files" / "b.bin").write_bytes(bytes([9, 8, 128]))
    pick = nn.Linear(6, 6, bias=False)
    nn.init.eye_(pick.weight)
    images = TorchModel.from_torch(pick, inputCol="image", output="vector").transform(
        spark.read.format("image").load(f"file://{tmp_path}/images")
    )
    # Spark keeps blue, green, red.
    assert images.first()["prediction"].toArray().tolist() == [3.0, 2.0, 1.0, 60.0, 50.0, 40.0]
    files = spark.read.format("binaryFile").load(f"file://{tmp_path}/files").orderBy("path")
    third = nn.Linear(3, 3, bias=False)
    nn.init.eye_(third.weight)
    found = TorchModel.from_torch(third, inputCol="content", output="vector").transform(files).collect()
    assert [row["prediction"].toArray().tolist() for row in found] == [[0.0, 255.0, 7.0], [9.0, 8.0, 128.0]]


def test_a_grid_of_objects_is_saved(spark: Any, tmp_path: Path) -> None:
    estimator = TorchEstimator(module=network())
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.module, [nn.Linear(64, 10), network(3)])
        .addGrid(estimator.loss, [nn.CrossEntropyLoss(label_smoothing=0.1)])
        .addGrid(estimator.optimizer, [torch.optim.SGD])
        .build()
    )
    weights = [float(module.state_dict()[name][0, 0]) for module, name in _modules(grid, estimator)]
    copies = [estimator.copy(values) for values in grid]  # as a fit of each does
    split = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=MulticlassClassificationEvaluator())
    split.write().overwrite().save(f"file://{tmp_path}/split")
    loaded = TrainValidationSplit.load(f"file://{tmp_path}/split")
    for made, values, weight in zip(copies, loaded.getEstimatorParamMaps(), weights, strict=True):
        again = loaded.getEstimator().copy(values)
        assert again.getOptimizer() == made.getOptimizer() == "torch.optim:SGD"
        assert again.start().weights_sha256() == made.start().weights_sha256()
        first = next(array for name, array in sorted(again.start().weights.items()) if name.endswith("weight"))
        assert math.isclose(float(first[0, 0]), weight)


def _modules(grid: list[Any], estimator: TorchEstimator) -> list[tuple[nn.Module, str]]:
    modules = [values[estimator.module] for values in grid]
    return [(module, min(name for name in module.state_dict() if name.endswith("weight"))) for module in modules]
