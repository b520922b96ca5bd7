"""Tiny models and tokenizers, as files: fixtures for the tests of export and import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

VOCABULARY = 200
_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
_LLAMA = {**_ENCODER, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "camembert": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 16},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 66,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
}


def tiny_config(family: str, **changes: Any) -> dict[str, Any]:
    """The JSON of a tiny configuration."""
    return {"model_type": family, **CONFIGS[family], **changes}


def tiny_module(family: str, *, zeros: bool = False, **changes: Any) -> torch.nn.Module:
    """A tiny module with random weights (biases too, unless ``zeros``), in eval mode."""
    from ts4s_core.onnx.families import CAUSAL, build_module
    from ts4s_core.onnx.sources import config_object

    torch.manual_seed(0)
    module = build_module(
        config_object(tiny_config(family, **changes), source="test"), "causal-lm" if family in CAUSAL else "encoder"
    )
    if not zeros:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.2)
    return module


def write_tokenizer(folder: Path, words: int = VOCABULARY) -> None:
    """A tokenizer.json of whole words ``w5 w6 ...`` with RoBERTa's special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    names = special + [f"w{number}" for number in range(len(special), words)]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(special)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_model_folder(folder: Path, family: str = "roberta", *, zeros: bool = False, **changes: Any) -> None:
    """A Hugging Face folder of a tiny model with a tokenizer."""
    from safetensors.torch import save_file

    module = tiny_module(family, zeros=zeros, **changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(family, **changes)))
    save_file({name: value.detach().clone() for name, value in module.named_parameters()}, folder / "model.safetensors")
    write_tokenizer(folder)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``make_folder("bert", name="base")``: the path of a new folder as of :func:`write_model_folder`."""

    def make(family: str = "roberta", *, name: str = "base", **changes: Any) -> Path:
        write_model_folder(tmp_path / name, family, **changes)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., None]:
    """:func:`write_model_folder`."""
    return write_model_folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., torch.nn.Module]:
    """:func:`tiny_module`."""
    return tiny_module


@pytest.fixture
def config_of() -> Callable[..., dict[str, Any]]:
    """:func:`tiny_config`."""
    return tiny_config


@pytest.fixture
def make_tokenizer() -> Callable[..., None]:
    """:func:`write_tokenizer`."""
    return write_tokenizer
