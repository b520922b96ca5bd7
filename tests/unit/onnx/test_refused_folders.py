"""Model folders as people have them: what cannot be taken says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from ts4s_core.errors import SourceError, UnsupportedModelError
from ts4s_core.onnx.sources.families import checked_module
from ts4s_core.onnx.sources.folder import check_folder, load_weights, match_weights, stored_tensors, weight_files
from ts4s_core.onnx.sources.onnx_file import read_onnx_file
from ts4s_core.onnx.sources.tokenizer_files import source_tokenizer, tokenizer_files

SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_an_encoder_that_says_it_is_a_decoder(family: str) -> None:
    config = {"model_type": family, **SIZES}
    assert checked_module(config, task="encoder", source="x")[0]["model_type"] == family
    with pytest.raises(UnsupportedModelError, match=r"config\.json says is_decoder true"):
        checked_module(config | {"is_decoder": True}, task="encoder", source="x")


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model", "tokenizer.model"])
@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": "XLMRobertaTokenizer"}])
def test_a_sentencepiece_model_alone(tmp_path: Path, name: str, config: dict[str, str] | None) -> None:
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", **SIZES}))
    message = rf"model\.source x has a sentencepiece model alone \({name}\): expected tokenizer\.json"
    with pytest.raises(SourceError, match=message):
        source_tokenizer("x", tmp_path, given=None, vocabulary=None)
    with pytest.raises(SourceError, match="has a sentencepiece model alone"):
        tokenizer_files(tmp_path, setting="model.tokenizer x", vocabulary=None)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 437955512\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "graph.onnx"])
def test_a_pointer_of_git_lfs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    read = {
        "model.safetensors": lambda: stored_tensors(weight_files(tmp_path, source="x"), source="x"),
        "tokenizer.json": lambda: source_tokenizer("x", tmp_path, given=None, vocabulary=None),
        "graph.onnx": lambda: read_onnx_file(tmp_path / name, source="x"),
    }
    with pytest.raises(SourceError, match=rf"^model\.source x: {name} is a pointer of Git LFS: .*Run git lfs pull"):
        read[name]()


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"has a PEFT adapter \(adapter_config\.json\), no model: .*merge_and_unload"):
        check_folder(tmp_path, source="x")
    (tmp_path / "adapter_config.json").rename(tmp_path / "modules.json")
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"encoder in a folder of its own.*Give at/x/0_Transformer$"):
        check_folder(tmp_path, source="at/x")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.bert."])
def test_weights_of_a_wrapped_module_are_its_own(tmp_path: Path, wrapper: str) -> None:
    """As DataParallel and torch.compile name them."""
    module = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_file({wrapper + name: tensor for name, tensor in expected.items()}, tmp_path / "model.safetensors")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    load_weights(module, match_weights(module, stored_tensors([tmp_path / "model.safetensors"], source="x"), source="x"))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, expected[name])
