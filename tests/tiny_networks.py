"""Tiny models of random weights and a tokenizer of whole words: what several folders of tests make their models from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VOCABULARY = 200
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
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


def roberta_with(tokenizer: Any, *, max_position_embeddings: int) -> dict[str, Any]:
    """The configuration of a tiny RoBERTa for a tokenizer whose first tokens are ``<s> <pad> </s>``."""
    return {
        "model_type": "roberta",
        "architectures": ["RobertaModel"],
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": max_position_embeddings,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def word_tokenizer(words: int = VOCABULARY) -> Any:
    """A tokenizer of whole words: RoBERTa's special tokens, then ``w5 w6 ...``, so many in all."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = SPECIAL_TOKENS + [f"w{number}" for number in range(len(SPECIAL_TOKENS), words)]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def tiny_module(family: str, *, zeros: bool = False, **changes: Any) -> torch.nn.Module:
    """A tiny module with random weights (biases too, unless ``zeros``), in eval mode."""
    import torch

    from ts4s_core.onnx.sources.families import CAUSAL, build_module, config_object

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
    """The tokenizer.json of :func:`word_tokenizer`."""
    tokenizer = word_tokenizer(words)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
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
