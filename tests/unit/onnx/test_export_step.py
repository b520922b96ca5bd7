from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import ParityError, SourceError
from ts4s_core.onnx.exporting import export_graph as export
from ts4s_core.onnx.exporting.export_graph import check_target, write_plain
from ts4s_core.onnx.exporting.step import export_model, export_to_file
from ts4s_core.settings import ModelSettings, Settings, StorageSettings

MakeFolder = Callable[..., Path]


def given(tmp_path: Path, source: object, *, store: str = "store", **model: Any) -> tuple[Settings, ArtifactStore]:
    storage = StorageSettings(uri=str(tmp_path / store))
    settings = Settings(model=ModelSettings(**{"source": str(source), "max_length": 32, **model}), storage=storage)
    return settings, ArtifactStore.open(storage)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, write_folder: Any) -> tuple[Path, Settings, ArtifactStore, Any]:
    """One exported RoBERTa for the tests that only read it."""
    home = tmp_path_factory.mktemp("shared")
    write_folder(home / "base", "roberta")
    settings, store = given(home, home / "base")
    events: list[tuple[str, Any]] = []
    result = export_model(settings, store, progress=lambda stage, fields: events.append((stage, fields["doing"])))
    assert events == [("export", "load"), ("export", "trace"), ("export", "check")]
    return home, settings, store, result


def test_artifact_holds_graph_names_tokenizer_and_summary(shared: Any) -> None:
    _, _, store, result = shared
    folder = store.local(result.ref)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "config.json",
        "manifest.json",
        "model.onnx",
        "model.onnx.data",
        "names.json",
        "summary.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]
    names = json.loads((folder / "names.json").read_text())
    assert (names["task"], names["inputs"], names["outputs"]) == (
        "encoder",
        ["input_ids", "attention_mask"],
        ["last_hidden_state"],
    )
    assert (names["opset"], len(names["parameters"]), names["tied"], names["unused"]) == (23, 37, {}, [])
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 1
    assert json.loads((folder / "summary.json").read_text()) == result.facts["summary"]
    assert result.facts["onnxruntime_difference"] < 1e-5
    assert not result.reused


def test_no_file_names_this_machine(shared: Any) -> None:
    home, _, store, result = shared
    folder = store.local(result.ref)
    manifest = store.manifest(result.ref)
    identity = [entry.path for entry in manifest.files if entry.identity]
    assert not [name for name in identity if str(home).encode() in (folder / name).read_bytes()]


def test_same_base_is_stored_once_whatever_head_it_gets(shared: Any) -> None:
    home, _, store, result = shared
    for changes in ({"classes": 7}, {"dropout": 0.3}, {"lora_rank": 4}, {"max_length": 20}, {"task": "multi-label"}):
        settings, _ = given(home, home / "base", **changes)
        again = export_model(settings, store)
        assert (again.ref, again.reused) == (result.ref, True)
        assert again.facts == result.facts
    assert len(store.versions("onnx", result.ref.name)) == 1


def test_the_same_bytes_from_another_place(shared: Any, tmp_path: Path) -> None:
    home, _, store, result = shared
    shutil.copytree(home / "base", tmp_path / "elsewhere" / "base")
    settings, other = given(tmp_path, tmp_path / "elsewhere" / "base")
    copied = export_model(settings, other)
    assert copied.ref.name == result.ref.name
    assert other.manifest(copied.ref).key == store.manifest(result.ref).key
    assert other.manifest(copied.ref).content_sha256 == store.manifest(result.ref).content_sha256


def test_failed_check_leaves_no_version(tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    settings, store = given(tmp_path, make_folder("bert"))
    with pytest.raises(ParityError, match="computes something else than the model"):
        export_model(settings, store)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_plain_file_runs_alone(shared: Any, tmp_path: Path) -> None:
    _, settings, store, result = shared
    target = tmp_path / "plain.onnx"
    target.write_text("an older file")
    done = export_to_file(settings, store, target)
    assert (done.ref, done.reused) == (result.ref, True)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]
    feed = {"input_ids": np.full((2, 5), 9), "attention_mask": np.ones((2, 5), dtype=np.int64)}
    outputs = [onnxruntime.InferenceSession(path).run(None, feed)[0] for path in (target, store.local(result.ref) / "model.onnx")]
    assert np.array_equal(*outputs)
    first = hashlib.sha256(target.read_bytes()).hexdigest()
    export_to_file(settings, store, target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == first


def test_plain_file_of_a_large_model_has_its_weights_beside_it(
    shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, store, result = shared
    monkeypatch.setattr(export, "MAX_INLINE_BYTES", 1_000)
    written = write_plain(store.local(result.ref) / "model.onnx", tmp_path / "big.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert written == [tmp_path / "big.onnx.data", tmp_path / "big.onnx"]
    onnx.checker.check_model(str(tmp_path / "big.onnx"))
    feed = {"input_ids": np.full((1, 3), 9), "attention_mask": np.ones((1, 3), dtype=np.int64)}
    assert onnxruntime.InferenceSession(tmp_path / "big.onnx").run(None, feed)[0].shape == (1, 3, 32)


def test_place_of_the_plain_file_is_checked_before_the_work(tmp_path: Path, make_folder: MakeFolder) -> None:
    settings, store = given(tmp_path, make_folder("bert"))
    (tmp_path / "folder.onnx").mkdir()
    for target, words in (
        (tmp_path / "model.bin", "is no ONNX file: expected a path that ends in .onnx"),
        (tmp_path / "folder.onnx", "is a folder"),
        (tmp_path / "none" / "model.onnx", "does not exist. Create it first"),
    ):
        with pytest.raises(SourceError, match=words):
            export_to_file(settings, store, target)
    assert not (tmp_path / "store").exists()


def test_folder_without_the_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SourceError, match="no right to write in"):
        check_target(tmp_path / "model.onnx")


def test_graph_made_elsewhere_is_stored_unchanged(shared: Any, tmp_path: Path, make_tokenizer: Any) -> None:
    _, settings, store, _ = shared
    plain = tmp_path / "theirs.onnx"
    export_to_file(settings, store, plain)
    theirs, other = given(tmp_path, plain)
    with pytest.raises(SourceError, match=r"has no tokenizer: expected tokenizer.json beside it. Give model.tokenizer"):
        export_model(theirs, other)
    assert not (tmp_path / "store").exists()
    make_tokenizer(tmp_path / "words")
    theirs, other = given(tmp_path, plain, tokenizer=str(tmp_path / "words"))
    result = export_model(theirs, other)
    folder = other.local(result.ref)
    assert result.ref.name.startswith("theirs-")
    assert (folder / "model.onnx").read_bytes() == plain.read_bytes()
    names = json.loads((folder / "names.json").read_text())
    assert (names["parameters"], names["inputs"], names["opset"]) == (None, ["input_ids", "attention_mask"], 23)
    assert result.facts["summary"]["family"] == "onnx"
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    assert not (folder / "config.json").exists()


def test_graph_made_elsewhere_with_weights_beside_it(
    shared: Any, tmp_path: Path, make_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, store, exported = shared
    theirs = onnx.load(store.local(exported.ref) / "model.onnx")
    onnx.save(theirs, tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin")
    make_tokenizer(tmp_path)
    settings, other = given(tmp_path, tmp_path / "big.onnx")
    folder = other.local(export_model(settings, other).ref)
    feed = {"input_ids": np.full((1, 3), 9), "attention_mask": np.ones((1, 3), dtype=np.int64)}
    outputs = [onnxruntime.InferenceSession(path).run(None, feed)[0] for path in (folder / "model.onnx", tmp_path / "big.onnx")]
    assert np.array_equal(*outputs)


def test_trained_model_is_its_own_base(tmp_path: Path) -> None:
    settings, store = given(tmp_path, "model:mine")
    with store.begin("trained", "mine", "ab" * 32, settings={}, upstream={}) as writer:
        writer.add_json("config.json", {"model_type": "bert", "max_position_embeddings": 64})
        writer.facts["steps"] = 3
        sealed = writer.seal()
    result = export_model(settings, store)
    assert (result.ref, result.reused, result.facts) == (sealed.ref, True, {"steps": 3})
    with pytest.raises(SourceError, match=r"does not go with model.source model:mine: a trained model is no base model"):
        export_to_file(settings, store, tmp_path / "x.onnx")
