"""A real model through import, training and evaluation: on Spark the same answers, bit for bit, as in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_networks import write_model_folder

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import scan
from ts4s_core.evaluation.steps.classifier import evaluate
from ts4s_core.evaluation.steps.evaluation import read_decision
from ts4s_core.models.import_step import import_model
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram

ROWS = 1_500


@dataclass(frozen=True)
class Chain:
    """What every test looks at: one dataset, a version trained for some steps and one hardly trained."""

    settings: Settings
    store: ArtifactStore
    dataset: ArtifactRef
    trained: ArtifactRef
    champion: ArtifactRef


def lines() -> list[str]:
    random = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        label = int(random.integers(3))
        words = 5 + random.integers(0, 190, random.poisson(4))
        own = 5 + 60 * label + random.integers(0, 4, 8)
        rows.append(f"{'abc'[label]}\t{' '.join(f'w{word}' for word in [*own, *words])} number{number}")
    return rows


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("evaluate")
    write_model_folder(folder / "base", "roberta")
    (folder / "rows.tsv").write_text("\n".join(lines()) + "\n", encoding="utf-8")
    values: dict[str, Any] = {
        "name": "demo",
        "model": {"source": str(folder / "base"), "max_length": 24},
        "data": {"source": str(folder / "rows.tsv"), "format": "tsv", "test_fraction": 0.4},
        "train": {"workers": 1, "max_steps": 40, "learning_rate": 3e-3, "batch_size": 32},
        "spark": {"master": "none"},
        "storage": {"uri": str(folder / "store"), "cache_dir": str(folder / "cache")},
    }
    settings = Settings(**values)
    store, engine = ArtifactStore.open(settings.storage), LocalEngine()
    onnx = export_model(settings, store).ref
    found = scan(settings, engine)
    dataset = prepare_dataset(settings, store, engine, scan=found, tokenizer_folder=store.local(onnx) / "tokenizer").ref
    model = import_model(settings, store, onnx_ref=onnx, classes=3, label_names=list(found.labels)).ref
    job = {"job": "train", "dataset": str(dataset), "model": str(model)}
    short = Settings(**{**values, "train": {**values["train"], "max_steps": 2}})
    versions = []
    for chosen in (short, settings):
        with SparkProgram(chosen) as program:
            versions.append(ArtifactRef.parse(program.run(job, timeout_s=200)["ref"]))
    return Chain(settings, store, dataset, trained=versions[1], champion=versions[0])


def test_the_model_is_scored_as_row_by_row_without_padding(chain: Chain) -> None:
    result = evaluate(chain.settings, chain.store, LocalEngine(), trained=chain.trained, dataset=chain.dataset)
    rows = pq.read_table(chain.store.local_file(result.ref, "predictions.parquet")).to_pylist()
    model = ModelFolder(chain.store.local(chain.trained)).build().eval()
    with Dataset.open(chain.store, chain.dataset) as opened:
        tokens = [ids for part in opened.read("test", ["input_ids"]) for ids in part["input_ids"].to_pylist()]
    assert len(tokens) == len(rows) > 500
    for row, ids in list(zip(rows, tokens, strict=True))[::40]:
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))
        np.testing.assert_allclose(row["probabilities"], logits.softmax(-1)[0].numpy(), atol=1e-5)
    assert result.facts["metrics"]["accuracy"] > result.facts["baseline"]["accuracy"] + 0.2
    page = chain.store.local_file(result.ref, "report.html").read_text(encoding="utf-8")
    for shown in (
        "Loss by step.",
        "Learning rate by step.",
        "Memory of the largest worker",
        "padding fraction",
        str(chain.dataset),
    ):
        assert shown in page


def test_spark_gives_the_same_bytes_as_one_process_and_the_gate_decides(chain: Chain) -> None:
    job = {
        "job": "evaluate",
        "trained": str(chain.trained),
        "dataset": str(chain.dataset),
        "champion": str(chain.champion),
        "step_seconds": {"train": 12.5},
    }
    events: list[tuple[str, dict[str, Any]]] = []
    values = {**chain.settings.model_dump(), "reuse": False, "spark": {"master": "local[2]"}}
    with SparkProgram(Settings(**values)) as program:
        result = program.run(job, progress=lambda stage, fields: events.append((stage, dict(fields))), timeout_s=200)
    report = ArtifactRef.parse(result["ref"])
    local = evaluate(
        Settings(**{**values, "spark": {"master": "none"}}),
        chain.store,
        LocalEngine(),
        trained=chain.trained,
        dataset=chain.dataset,
        champion=chain.champion,
    )
    assert report != local.ref
    files = [
        {entry.path: entry.sha256 for entry in chain.store.manifest(ref).files if entry.identity} for ref in (report, local.ref)
    ]
    assert files[0] == files[1]
    rows = result["facts"]["rows"]
    assert {(fields.get("row"), fields.get("rows")) for stage, fields in events if stage == "evaluate"} >= {(rows, rows)}

    decision = read_decision(chain.store, report)
    assert decision.promote
    assert decision.champion == str(chain.champion)
    assert decision.figures["gain"]["low"] > 0
    assert decision.figures["gain"]["rows"] == rows
