"""Sizes and tokenizers of the language models that the tests make; under a name of its own, to be imported by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["<unk>", "<|endoftext|>", *(f"w{number}" for number in range(60))]
SMALL = {"hidden_size": 32, "layers": 2, "attention_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": SMALL,
    "llama": {**SMALL, "source": "config:llama-decoder"},
    "window": {"architecture": "window", "embedding_size": 16, "hidden_size": 32, "context": 4, "attention_heads": 2},
    "recurrent": {"architecture": "recurrent", "embedding_size": 16, "hidden_size": 32, "layers": 2},
    "lstm": {"architecture": "recurrent", "embedding_size": 16, "hidden_size": 32, "cell": "lstm"},
    "tied": {
        "architecture": "recurrent",
        "embedding_size": 16,
        "hidden_size": 32,
        "layers": 2,
        "cell": "lstm",
        "tie_word_embeddings": True,
    },
}


def write_words(folder: Path, words: list[str]) -> Path:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:2])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
