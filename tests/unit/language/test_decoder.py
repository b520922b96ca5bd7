"""Decoders from settings: built in, from a file, pretrained, and the small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_language_models import MODELS, SMALL, WORDS, write_words

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.handover.export import export_trained
from ts4s_core.language.decoder import check_decoder, export_decoder, import_decoder, source_tokenizer
from ts4s_core.language.defaults import with_defaults
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.small_networks import NetworkModel, initial_weights
from ts4s_core.onnx.seeded_dropout import seed_dropout
from ts4s_core.settings import Settings, StorageSettings
from ts4s_core.task_kinds.language_model import LANGUAGE_MODEL


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_each_position_sees_what_is_before_it_alone(store, make, kind):
    model = ModelFolder(store.local(make(kind).ref)).build().eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, len(WORDS), (3, 12), generator=generator)
    changed = ids.clone()
    changed[:, 7:] = torch.randint(2, len(WORDS), (3, 5), generator=generator)
    with torch.no_grad():
        logits, other = model(ids, torch.ones_like(ids)), model(changed, torch.ones_like(ids))
        mask = (torch.arange(12) < 7).long().expand_as(ids)
        padded = model(changed, mask)
    assert logits.shape == (3, 12, len(WORDS))
    for found in (other, padded):
        torch.testing.assert_close(found[:, :7], logits[:, :7], rtol=1e-4, atol=1e-5)
    assert (other[:, 7:] - logits[:, 7:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["window", "recurrent"])
def test_dropout_hangs_on_seed_step_and_part(store, make, kind):
    model = ModelFolder(store.local(make(kind).ref)).build()
    ids = torch.arange(2, 14).view(1, 12)
    runs = []
    for part in (0, 1, 0):
        torch.manual_seed(len(runs))
        seed_dropout(model, 1, 5, part=part)
        runs.append(model(ids, torch.ones_like(ids)))
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[1])


def test_the_vocabulary_is_the_tokenizers_and_the_head_is_tied(store, make):
    folder = store.local(make("gpt2").ref)
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["n_positions"]) == (len(WORDS), 1, 16)
    model = ModelFolder(folder).build()
    assert dict(model.spec.tied) == {"lm_head.weight": "transformer.wte.weight"}
    assert model.spec.max_length == 16
    assert model.spec.dropout == 0.2
    assert "transformer.wte.weight" in model.trained_tensors()


def test_weights_hang_on_the_seed_alone(store, make, settings_of):
    first = ModelFolder(store.local(make("recurrent").ref)).build()
    assert isinstance(first, NetworkModel)
    again, other = initial_weights(first, seed=0), initial_weights(first, seed=1)
    stored = {name: parameter.detach().numpy() for name, parameter in first.named_parameters()}
    assert all(np.array_equal(again[name], stored[name]) for name in stored)
    assert not np.array_equal(again["network.embedding.weight"], other["network.embedding.weight"])


def test_tied_vectors_are_the_output_s_weights(store, make):
    """The model of the files has them once: a step moves both, and the last layer is as wide as they are."""
    model = ModelFolder(store.local(make("tied").ref)).build()
    assert isinstance(model, NetworkModel)
    assert model.network.output.weight is model.network.embedding.weight
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert "network.output.weight" not in shapes
    assert shapes["network.cells.1.weight_hh_l0"] == (4 * 16, 16)
    assert shapes["network.cells.0.weight_hh_l0"] == (4 * 32, 32)
    ids = torch.arange(2, 14).view(1, 12)
    model.eval()(ids, torch.ones_like(ids))[..., 5].sum().backward()
    gradient = model.network.embedding.weight.grad
    assert gradient[5].abs().sum() > 0, "as an input"
    assert gradient[40].abs().sum() == 0
    model(ids, torch.ones_like(ids))[..., 40].sum().backward()
    assert gradient[40].abs().sum() > 0, "as an output"


def test_a_configuration_file(store, words, settings_of, tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}))
    settings = settings_of(model={"source": f"config:{path}"}, data={"window": 32})
    check_decoder(settings, store)
    assert source_tokenizer(settings, store) is None
    exported = export_decoder(settings, store, tokenizer=words)
    assert exported is not None
    assert exported.facts["summary"]["vocabulary"] == len(WORDS)


@pytest.mark.parametrize("kind", ["recurrent", "gpt2"])
def test_a_trained_model_is_trained_on(store, make, settings_of, kind):
    made = make(kind)
    folder = store.local(made.ref)
    with store.begin("trained", f"on-{kind}", "ab" * 32, settings={}, upstream={}) as writer:
        for entry in store.manifest(made.ref).files:
            writer.add_file(folder / entry.path, entry.path)
        writer.seal()
    settings = settings_of(name="on", model={"source": f"model:on-{kind}", "dropout": 0.25}, data={"window": 8})
    check_decoder(settings, store)
    assert source_tokenizer(settings, store) == {"tokenizer.json": (folder / "tokenizer/tokenizer.json").read_bytes()}
    exported = export_decoder(settings, store, tokenizer=folder / "tokenizer")
    assert exported is not None
    assert exported.ref.kind == "trained"
    again = import_decoder(settings, store, tokenizer=folder / "tokenizer", exported=exported.ref)
    model = ModelFolder(store.local(again.ref)).build()
    assert (model.spec.dropout, model.spec.max_length) == (0.25, 8)
    assert again.facts["weights_sha256"] == made.facts["weights_sha256"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"model": {"source": "config:nowhere.json"}}, "config:nowhere.json does not exist"),
        ({"model": {"hidden_size": 30, "attention_heads": 4}}, "model.hidden_size 30 .* model.attention_heads 4"),
        ({"model": {"source": "config:PATH", "layers": 3}}, "model.layers 3 has no meaning with model.source"),
        ({"model": {"source": "config:PATH"}, "data": {"window": 64}}, "data.window 64 is longer than .* at most 32"),
        ({"model": {"architecture": "window", "word_vectors": "nowhere.txt"}}, "model.word_vectors nowhere.txt cannot be read"),
        ({"model": {"source": "config:BROKEN"}}, "config.json"),
    ],
)
def test_what_is_refused_before_the_first_write(store, settings_of, tmp_path, groups, message):
    path, broken = tmp_path / "mine.json", tmp_path / "broken.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}))
    broken.write_text(json.dumps({"model_type": "gpt2", "n_embd": 15, "n_layer": 1, "n_head": 2}))
    source = groups["model"].get("source", "config:decoder").replace("PATH", str(path)).replace("BROKEN", str(broken))
    groups = {**groups, "model": {**groups["model"], "source": source}}
    if groups["model"].get("architecture"):
        del groups["model"]["source"]
    with pytest.raises(InputError, match=message):
        check_decoder(settings_of(**groups), store)


def write_decoder(folder: Path, *, rows: int, positions: int) -> Path:
    """A graph made elsewhere: logits of tokens by a table of words and one of places, beside a tokenizer of ``WORDS``."""
    from onnx import TensorProto, helper, numpy_helper, save

    draw = np.random.default_rng(3)
    tables = {"words.weight": draw.standard_normal((rows, 8)), "places.weight": draw.standard_normal((positions, 8))}
    tensors = {name: array.astype(np.float32) for name, array in tables.items()}
    tensors |= {"head": np.ascontiguousarray(tensors["words.weight"].T), "zero": np.array(0), "one": np.array(1)}
    nodes = [
        helper.make_node("Gather", ["words.weight", "input_ids"], ["words"]),
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["range"]),
        helper.make_node("Gather", ["places.weight", "range"], ["places"]),
        helper.make_node("Add", ["words", "places"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "t", rows])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    write_words(folder, WORDS)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "decoder.onnx")
    return folder / "decoder.onnx"


@pytest.mark.parametrize("config", [None, {"model_type": "gpt2", "vocab_size": 9_999, "n_positions": 512}])
@pytest.mark.parametrize(
    ("rows", "window", "message"),
    [
        (len(WORDS), 16, None),
        (
            len(WORDS) - 1,
            16,
            rf"model\.source .*decoder\.onnx: tokenizer and model do not fit together: .* got the largest id {len(WORDS) - 1} "
            rf"and a token table of {len(WORDS) - 1} rows\. Give the model's own tokenizer as model\.tokenizer",
        ),
        (len(WORDS), 17, r"data\.window 17 is longer than model\.source .*decoder\.onnx takes: expected at most 16\. Lower it"),
    ],
    ids=["fits", "words", "places"],
)
def test_sizes_of_a_graph_are_tried_before_the_first_write(tmp_path, settings_of, config, rows, window, message):
    path = write_decoder(tmp_path / "base", rows=rows, positions=16)
    if config is not None:  # what stands beside the graph is not believed
        (path.parent / "config.json").write_text(json.dumps(config))
    storage = StorageSettings(uri=str(tmp_path / "store"))
    settings = settings_of(model={"source": str(path)}, data={"window": window}, storage=storage)
    store = ArtifactStore.open(storage)
    if message is None:
        check_decoder(settings, store)
    else:
        with pytest.raises(InputError, match=message):
            check_decoder(settings, store)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"context": 4}, "model.context 4 has no meaning with model.architecture transformer: use architecture window"),
        ({"architecture": "window", "layers": 2}, "model.layers 2 has no meaning with model.architecture window"),
        ({"architecture": "window", "attention_heads": 3}, "model.attention_heads 3 does not divide model.embedding_size 128"),
        ({"architecture": "window", "tie_word_embeddings": True}, "model.tie_word_embeddings True has no meaning with .* window"),
        (
            {"architecture": "recurrent", "tie_word_embeddings": True, "freeze_word_vectors": True, "word_vectors": "v.txt"},
            "model.freeze_word_vectors true and model.tie_word_embeddings true",
        ),
        (
            {"architecture": "recurrent", "tie_word_embeddings": True, "hidden_size": 64},
            "model.hidden_size 64 has no meaning with model.tie_word_embeddings true and one layer",
        ),
        ({"architecture": "recurrent", "task": "classification"}, "model.architecture recurrent does not go with model.task"),
        ({"architecture": "recurrent", "freeze_word_vectors": True}, "model.freeze_word_vectors true needs model.word_vectors"),
    ],
)
def test_settings_that_do_not_go_together(model, message):
    with pytest.raises(ValueError, match=message):
        Settings(model=model)


def test_defaults_fill_in_what_was_not_set():
    settings = with_defaults(Settings(train={"epochs": 3}, data={"window": 64}))
    assert settings.model.source == "config:decoder"
    assert settings.model.task == "language-model"
    assert settings.model.max_length == 64
    assert settings.train.epochs == 3
    assert settings.train.learning_rate == LANGUAGE_MODEL.defaults_of_new["train"]["learning_rate"]
    assert (settings.data.stride, settings.data.test_fraction) == (16, LANGUAGE_MODEL.defaults["data"]["test_fraction"])
    pretrained = with_defaults(Settings(model={"source": "gpt2"}))
    assert (pretrained.train, pretrained.model.dropout, pretrained.data.stride) == (Settings().train, None, 0)
    assert with_defaults(settings) == settings
    with pytest.raises(InputError, match=r"model\.max_length 32 has no meaning"):
        with_defaults(Settings(model={"max_length": 32}))
    with pytest.raises(InputError, match=r"model\.task classification"):
        with_defaults(Settings(model={"task": "classification", **SMALL}))


@pytest.mark.parametrize("form", ["onnx", "hf", "onnx-int8"])
def test_a_small_network_has_no_such_form(store, make, tmp_path, form):
    ref = make("recurrent").ref
    with pytest.raises(UnsupportedModelError, match=rf"Export as {form} of {ref}: .*a small network \(recurrent\).*torch"):
        export_trained(store, ref, form=form, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
