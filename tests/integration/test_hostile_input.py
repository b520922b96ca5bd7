"""Files and names that mean harm, given the way a user gives them: refused with one line, nothing run, nothing written."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from flows.cli import main as cli
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.scan import scan
from ts4s_core.errors import DataError, IntegrityError
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.weights import read_weights, save_weights
from ts4s_core.settings import load_settings

Cli = Callable[..., tuple[int, str]]
SECRET = b"not for the model"
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command that must fail: gives its exit code and its one line; the store stays as it was."""

    def run(*words: str, store: Path | None = None) -> tuple[int, str]:
        place = store or tmp_path / "store"
        before = sorted(place.rglob("*"))
        code = cli.main([*words, "--storage.uri", str(place)])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, captured.err
        assert "Traceback" not in captured.err
        assert SECRET.decode() not in captured.err + captured.out
        assert sorted(place.rglob("*")) == before
        return code, errors[0]

    return run


class Harm:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, (str(self.mark), "w"))


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_planted_pickle_as_the_weights_of_a_model(refused: Cli, tmp_path: Path) -> None:
    folder, mark = model_folder(tmp_path / "model"), tmp_path / "harm"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(mark)))
    code, error = refused("export", "--model.source", str(folder))
    assert code == 2
    assert "as a pickle only (pytorch_model.bin), which is not read because it can run code" in error
    assert not mark.exists()


def safetensors_file(header: object, data: bytes, *, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


LIES = {
    "longer than the file": safetensors_file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
    "a header of 2**60 bytes": safetensors_file({}, b"", length=2**60),
    "a shape that is not its bytes": safetensors_file(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 16]}}, b"x" * 16
    ),
    "tensors that overlap": safetensors_file(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        b"x" * 12,
    ),
    "offsets before the beginning": safetensors_file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, b""),
    "no header": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_header_that_lies(refused: Cli, tmp_path: Path, lie: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(LIES[lie])
    code, error = refused("export", "--model.source", str(folder))
    assert code == 2
    assert "model.safetensors" in error
    with pytest.raises(IntegrityError, match=r"model.safetensors"):
        read_weights(folder / "model.safetensors")


def graph_with_weights_in(location: str) -> bytes:
    table = np.zeros((4, 4), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", "t", 4])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "a/../../secret"])
def test_onnx_file_with_weights_outside_its_folder(refused: Cli, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET * 10)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.onnx").write_bytes(graph_with_weights_in(location.format(folder=tmp_path)))
    code, error = refused("export", "--model.source", str(tmp_path / "in/model.onnx"))
    assert code == 2
    assert "keeps weights outside its folder, which is refused" in error


def sealed(store: ArtifactStore, kind: str, files: dict[str, bytes], **facts: object) -> ArtifactRef:
    """An artifact as somebody with access to the store can plant it: its manifest fits its files."""
    with store.begin(kind, "evil", "ab" * 32, settings={}, upstream={}) as writer:
        for path, data in files.items():
            writer.add_bytes(path, data)
        writer.facts.update(facts)
        writer.seal()
    return writer.ref


@pytest.mark.parametrize("location", ["../../../../secret", "{folder}/secret"])
def test_planted_onnx_artifact_with_weights_outside(refused: Cli, store: ArtifactStore, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET * 10)
    graph = graph_with_weights_in(location.format(folder=tmp_path))
    names = {"task": "encoder", "inputs": ["input_ids"], "outputs": ["output"], "parameters": {}, "tied": {}, "opset": 17}
    files = {"model.onnx": graph, "names.json": json.dumps(names).encode(), "config.json": json.dumps(CONFIG).encode()}
    ref = sealed(store, "onnx", files)
    _, error = refused("import", "--from", str(ref), "--model.classes", "2")
    assert "model.onnx" in error


def test_planted_trained_artifact_whose_weights_lie(store: ArtifactStore, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"other": np.zeros(3, dtype=np.float32)})
    for data in (LIES["longer than the file"], (tmp_path / "w.safetensors").read_bytes()):
        ref = sealed(store, "trained", {"model.safetensors": data, "model.json": b"{}", "graph.onnx": b"\x08\x08"})
        with pytest.raises(IntegrityError):
            ModelFolder(store.local(ref)).build()


def test_pickle_planted_into_a_sealed_version(refused: Cli, store: ArtifactStore, tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    ref = sealed(store, "onnx", {"names.json": b"{}"})
    assert store.storage.folder is not None
    (store.storage.folder / str(ref) / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(mark)))
    code, error = refused("import", "--from", str(ref), "--model.classes", "2")
    assert code == 1
    assert "holds files that its manifest does not list: pytorch_model.bin" in error
    assert not mark.exists()


@pytest.mark.parametrize("path", ["../../../../secret", "/etc/passwd", "a/../../b.json", "x" * 500 + ".json", "bell\x07.json"])
def test_manifest_with_a_foreign_path(refused: Cli, store: ArtifactStore, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    ref = sealed(store, "onnx", {"names.json": b"{}"})
    assert store.storage.folder is not None
    manifest = store.storage.folder / str(ref) / "manifest.json"
    record = json.loads(manifest.read_bytes())
    record["files"][0] |= {"path": path, "size": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    manifest.write_text(json.dumps(record))
    code, error = refused("import", "--from", str(ref), "--model.classes", "2")
    assert code == 1
    assert "manifest.json is damaged" in error


def bomb(path: Path, *, kind: str) -> None:
    """Little on disk, gigabytes in memory."""
    if kind == "one cell":
        table = pa.table({"label": ["a"], "text": pa.array(["x" * (80 * 2**20)])})
    else:
        table = pa.table({"label": ["a"] * 300, "text": pa.array(["x" * 2**20] * 300)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


@pytest.mark.parametrize("kind", ["one cell", "many rows"])
def test_parquet_that_unfolds_without_end(tmp_path: Path, kind: str) -> None:
    bomb(tmp_path / "bomb.parquet", kind=kind)
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**20
    settings = load_settings({"data": {"source": str(tmp_path / "bomb.parquet"), "format": "parquet"}})
    with pytest.raises(DataError, match=r"bomb.parquet is refused: .* only a file made to fill the memory does"):
        scan(settings, LocalEngine())


def test_planted_dataset_that_unfolds_without_end(store: ArtifactStore, tmp_path: Path) -> None:
    from ts4s_core.artifacts.pieces import row_groups_of

    ids = pa.ListArray.from_arrays([0, 20 * 2**20], np.full(20 * 2**20, 7, dtype=np.int32))
    pq.write_table(pa.table({"input_ids": ids}), tmp_path / "00000.parquet", compression="zstd")
    assert (tmp_path / "00000.parquet").stat().st_size < 2**20
    with store.begin("dataset", "evil", "ab" * 32, settings={}, upstream={}) as writer:
        writer.add_file(tmp_path / "00000.parquet", "train/00000.parquet", row_groups=row_groups_of(tmp_path / "00000.parquet"))
        writer.facts.update(labels=["a"], fingerprint="f", max_length=8, pad_id=0, task="classification")
        writer.seal()
    with (
        Dataset.open(store, writer.ref) as dataset,
        pytest.raises(IntegrityError, match=r"unfolds to .* Prepare the dataset again"),
    ):
        list(dataset.read("train"))


NAMES = ["../evil", "/etc/evil", "a\x1b[31mb", "x" * 200, ""]


def commands() -> Iterator[tuple[str, ...]]:
    for name in NAMES:
        yield ("prepare", "--name", name)
        yield ("models", "show", name or "@")
        yield ("models", "rollback", name or "@", "--reason", "r")
        yield ("models", "promote", "demo", name or "@", "--reason", "r")
        yield ("models", "promote", "demo", "20261121T041500.123456Z-1a2b3c4d", "--reason", "r", "--alias", name or "@")
        yield ("import", "--from", f"onnx/{name}/20261121T041500.123456Z-1a2b3c4d", "--model.classes", "2")
        yield ("import", "--from", f"onnx/demo/{name}", "--model.classes", "2")


def test_names_that_leave_their_place(refused: Cli) -> None:
    for words in commands():
        code, error = refused(*words)
        assert code == 2, words
        assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in error), words
        assert len(error) < 2_100
