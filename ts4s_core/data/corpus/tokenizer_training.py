"""A tokenizer of the text's own: byte-level BPE, or whole words over the same byte-level pieces.

Both are made of pieces as GPT-2 cuts them (a word with the space before it, numbers, marks), written as bytes, so that decoding
gives the text back exactly; a word-level one has a token for words that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
#: The merges of rarer pairs than these are noise, whatever the vocabulary's size.
LEAST_COUNT = 2


def train_tokenizer(texts: Iterable[str], *, kind: str, vocabulary_size: int) -> dict[str, bytes]:
    """The files of a tokenizer trained on some texts: the same texts in any order give the same bytes.

    Args:
        texts: what it is trained on.
        kind: ``byte-level-bpe`` or ``word-level``.
        vocabulary_size: most tokens.

    Returns:
        ``tokenizer.json`` and ``tokenizer_config.json`` by name.
    """
    trainer: trainers.WordLevelTrainer | trainers.BpeTrainer
    if kind == "word-level":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(vocab_size=vocabulary_size, special_tokens=[BEGIN, UNKNOWN], show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=LEAST_COUNT,
            special_tokens=[BEGIN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": BEGIN,
        "pad_token": BEGIN,
        "clean_up_tokenization_spaces": False,
        **({"unk_token": UNKNOWN} if kind == "word-level" else {}),
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False).encode() + b"\n",
        "tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
    }
