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
