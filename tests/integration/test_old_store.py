"""Today's code on a store that code of before wrote (``tests/data/store_of_5bf3a8e``): all that a user does with a store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from flows.cli.main import main
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.settings import Settings

KEPT = Path(__file__).parents[1] / "data" / "store_of_5bf3a8e"
FIRST, SECOND = "20261127T001853.682867Z-ee2e9b3e", "20261127T001935.047193Z-34bb2df1"
FIRST_SHA256 = "77ea5a6f6f02eee7887603999a1a7db3ec7490a84e2f4de875924d9683ff92b5"
#: The same by the code of then on other CPUs than the one that wrote the store.
FIRST_ELSEWHERE = {"AVX512 VNNI BF16 FP16 AMX": "97d5297e980bb5993e953b5c22014dfc4f9d7fbe3137854bb71324f8bbb931a8"}
SECOND_SHA256 = "b061620ab69f368dcaef0b32ccebe9f176654e9dc1d59fdc3cac0cacb15af7b7"
NOVEL_SHA256 = "6b4cdf6ca936b0e12e32a2bf9cec3a7bd3ba8fd4f6aae7d8e47098219704ecc6"

Ts4s = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a copy of the store."""
    shutil.copytree(KEPT / "store", tmp_path / "store")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> ArtifactStore:
    return ArtifactStore.open(settings(folder).storage)


@pytest.fixture
def ts4s(folder: Path, capsys: pytest.CaptureFixture[str]) -> Ts4s:
    """Run the command line in this process."""

    def run(*words: str) -> dict[str, Any]:
        where = ("--storage.uri", str(folder / "store"), "--storage.cache_dir", str(folder / "cache"), "--spark.master", "none")
        code = main([*words, "--json", *where])
        told = capsys.readouterr()
        assert code == 0, told.err
        found: dict[str, Any] = json.loads(told.out.splitlines()[-1])
        return found

    return run


def settings(folder: Path, **train: Any) -> Settings:
    """Settings of a retrain that goes on from the champion."""
    return Settings.model_validate(
        {
            "name": "topics",
            "storage": {"uri": str(folder / "store"), "cache_dir": str(folder / "cache")},
            "spark": {"master": "none"},
            "model": {"source": "model:topics@champion", "max_length": 16},
            "data": {"source": str(KEPT / "inputs" / "rows.tsv")},
            "train": {"batch_size": 12, "logical_shards": 2, "workers": 1, **train},
        }
    )


def test_list_show_and_verify(ts4s: Ts4s) -> None:
    listed = {model["name"]: model for model in ts4s("models", "list")["models"]}
    assert {name: (model["versions"], model["champion"]) for name, model in listed.items()} == {
        "novel": (1, "20261127T002711.481294Z-89bed14f"),
        "topics": (2, SECOND),
    }
    assert listed["topics"]["metrics"] == {"accuracy": 1.0, "macro_f1": 1.0, "loss": pytest.approx(0.0277, abs=1e-4)}
    assert listed["novel"]["metrics"]["bits_per_byte"] == pytest.approx(1.2463, abs=1e-4)
    for model, sha256 in (("topics", SECOND_SHA256), (f"topics@{FIRST}", FIRST_SHA256), ("novel", NOVEL_SHA256)):
        assert ts4s("models", "show", model)["weights_sha256"] == sha256
    verified = ts4s("models", "verify")
    assert (verified["ok"], verified["versions"], verified["damaged"]) == (True, 15, [])


def test_what_was_promoted_can_be_rolled_back(ts4s: Ts4s, store: ArtifactStore) -> None:
    before = Registry(store).entries("topics")
    assert [entry.action for entry in before] == ["promote", "promote", "rollback", "promote"]
    assert ts4s("models", "rollback", "topics", "--reason", "test")["version"] == FIRST
    assert ts4s("models", "list")["models"][1]["champion"] == FIRST


def test_export_for_hugging_face_and_onnx(ts4s: Ts4s, folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    ts4s("models", "export", "topics", "--format", "hf", "--to", str(folder / "hf"))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "hf").eval()
    assert model.config.id2label == {0: "ham", 1: "spam", 2: "tofu"}
    ts4s("models", "export", "topics", "--format", "onnx", "--to", str(folder / "plain"))
    session = onnxruntime.InferenceSession(next((folder / "plain").glob("*.onnx")))
    ids = torch.tensor([[0, 5, 6, 2]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    (logits, *_) = session.run(None, {node.name: given[node.name].numpy() for node in session.get_inputs()})
    with torch.no_grad():
        expected = model(**given).logits.numpy()
    assert expected.shape == (1, 3)
    assert np.abs(logits - expected).max() < 1e-5


def test_predict_finds_the_rows_that_the_model_was_trained_on(folder: Path, store: ArtifactStore) -> None:
    from ts4s_core.prediction.job import predict
    from ts4s_core.prediction.options import PredictOptions

    done = predict(
        settings(folder),
        store,
        LocalEngine(),
        model=ArtifactRef("trained", "topics", SECOND),
        options=PredictOptions(output=str(folder / "answers")),
    )
    assert (done["rows"], done["errors"]) == (150, 0)
    rows = [line.split("\t") for line in (KEPT / "inputs" / "rows.tsv").read_text(encoding="utf-8").splitlines()]
    table = pq.read_table(folder / "answers").to_pydict()
    answers = dict(zip(table["text"], table["label"], strict=True))
    assert sum(answers[text] == label for label, text in rows) >= 145


def test_compare_its_two_versions(store: ArtifactStore) -> None:
    from ts4s_core.evaluation.gate.compare_versions import check_comparable, compare_versions, dataset_for

    first, second = (ArtifactRef("trained", "topics", version) for version in (FIRST, SECOND))
    check_comparable(store, first, second)
    found = compare_versions(store, LocalEngine(), first=first, second=second, dataset=dataset_for(store, first, second))
    assert (found["rows"], found["left_out"]) == (27, 0)
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["a"], accuracy["b"]) == (pytest.approx(0.7037, abs=1e-4), 1.0)
    assert (accuracy["low"], accuracy["high"]) == (pytest.approx(0.1481, abs=1e-4), pytest.approx(0.4815, abs=1e-4))


def test_a_new_version_is_gated_against_its_champion(folder: Path, store: ArtifactStore) -> None:
    from ts4s_core.data.prepare import prepare_dataset
    from ts4s_core.data.scan import scan
    from ts4s_core.evaluation.steps.classifier import evaluate
    from ts4s_core.models.import_step import import_model
    from ts4s_core.onnx.exporting.step import export_model
    from ts4s_core.pipeline.publication import publish_decision
    from ts4s_core.training.driver.local_launcher import LocalLauncher
    from ts4s_core.training.driver.train_step import train

    given, engine, champion = settings(folder, max_steps=3), LocalEngine(), ArtifactRef("trained", "topics", SECOND)
    base = export_model(given, store).ref
    assert base == champion
    labels = ["ham", "spam", "tofu"]
    model = import_model(given, store, onnx_ref=base, classes=3, label_names=labels).ref
    found = scan(given, engine)
    dataset = prepare_dataset(given, store, engine, scan=found, tokenizer_folder=store.local(base) / "tokenizer").ref
    trained = train(given, store, LocalLauncher(threads_per_worker=1), dataset=dataset, model=model).ref
    report = evaluate(given, store, engine, trained=trained, dataset=dataset, champion=champion).ref
    decided = publish_decision(store, trained=str(trained), report=str(report), approved=True)
    # The champion has the whole test side right: there is nothing to win, and it stays.
    assert (decided.promoted, decided.new) == (False, True)
    assert f"over {champion} (1.0000 to" in decided.why
    assert Registry(store).alias("topics") == SECOND
    assert store.manifest(trained).upstream["model"] == str(model)


def test_the_same_inputs_give_the_same_weights_as_then(folder: Path, store: ArtifactStore) -> None:
    from ts4s_core.artifacts.versions.environment import instruction_set, library_versions
    from ts4s_core.training.driver.local_launcher import LocalLauncher
    from ts4s_core.training.driver.train_step import train

    then = store.manifest(ArtifactRef("trained", "topics", FIRST))
    if then.libraries["torch"] != library_versions()["torch"] or then.instruction_set != instruction_set().split()[0]:
        pytest.skip("another CPU or another torch gives other bits")
    dataset, model = (ArtifactRef.parse(then.upstream[role]) for role in ("dataset", "model"))
    hashes = set()
    for workers in (1, 2):
        again = settings(folder, max_steps=30, epochs=20, learning_rate=0.01, workers=workers).model_copy(update={"reuse": False})
        result = train(again, store, LocalLauncher(threads_per_worker=1), dataset=dataset, model=model)
        hashes.add(result.facts["weights_sha256"])
    assert len(hashes) == 1
    if instruction_set() not in FIRST_ELSEWHERE and hashes != {FIRST_SHA256}:
        pytest.skip(f"what the code of then gives on a CPU with {instruction_set()} is not known")
    assert hashes == {FIRST_ELSEWHERE.get(instruction_set(), FIRST_SHA256)}


@pytest.mark.long
def test_the_same_by_whole_commands(ts4s: Ts4s, folder: Path) -> None:
    rows = ("--data.source", str(KEPT / "inputs" / "rows.tsv"))
    small = ("--train.batch_size", "12", "--train.logical_shards", "2", "--train.max_steps", "3", "--model.max_length", "16")
    done = ts4s("retrain", "--name", "topics", "--model.source", "model:topics@champion", *rows, *small)
    assert (done["status"], done["promoted"]) == ("done", False)
    assert SECOND in done["why"]
    assert ts4s("predict", "--model", "topics", *rows, "--output", str(folder / "answers"))["rows"] == 150
    compared = ts4s("models", "compare", f"topics@{FIRST}", f"topics@{SECOND}")
    assert compared["metrics"]["accuracy"]["b"] == 1.0
    assert ts4s("generate", "--model", "novel", "--generate.prompt", "the", "--generate.max_new_tokens", "4")["tokens"] <= 4
    assert ts4s("models", "verify")["ok"]
