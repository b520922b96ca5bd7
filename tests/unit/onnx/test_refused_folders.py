"""Model folders as people have them: what cannot be taken says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ts4s_core.errors import SourceError, UnsupportedModelError
from ts4s_core.onnx.sources.families import checked_module
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
