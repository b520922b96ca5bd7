"""Text to tokens for a language model: with a begin token, and a count of the bytes that no token stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ts4s_core.data.tokenizers import StoredTokenizer, tokenizer_failures

CONFIG_FILE = "tokenizer_config.json"
_BEGIN_TOKENS = ("bos_token", "eos_token", "cls_token")


@dataclass(frozen=True)
class Encoded:
    """Tokens of some texts, one text after the other.

    Attributes:
        ids: all tokens (int32).
        lengths: tokens of each text, begin token included.
        unknown_bytes: bytes of each text that became unknown tokens.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unknown_bytes: NDArray[np.int32]


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the tokens that a language model knows by their part.

    Attributes:
        stored: the tokenizer itself.
        begin_id: token that every text begins with; None: the tokenizer has none.
        unknown_id: token of text outside the vocabulary; None: the tokenizer has none.
        vocabulary: number of tokens.
    """

    stored: StoredTokenizer
    begin_id: int | None
    unknown_id: int | None
    vocabulary: int

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> TextTokenizer:
        """The tokenizer of a tokenizer's files.

        Raises:
            SourceError: if it cannot be read.
        """
        stored = StoredTokenizer.of(files)
        tokenizer = stored.load()
        config = json.loads(files[CONFIG_FILE]) if CONFIG_FILE in files else {}
        named = (_token(config.get(name)) for name in _BEGIN_TOKENS)
        begin = next(
            (tokenizer.token_to_id(token) for token in named if token and tokenizer.token_to_id(token) is not None), None
        )
        unknown = json.loads(stored.text)["model"].get("unk_token")
        unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
        return cls(stored, begin, unknown_id, max(tokenizer.get_vocab().values()) + 1)

    def load(self) -> Tokenizer:
        """The tokenizer itself, shared by all in this process."""
        return self.stored.shared()

    def encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Encoded:
        """Tokens of some texts, without the tokenizer's own special tokens, behind the begin token."""
        # Offsets cost a tenth of the speed, and are needed only to measure what is unknown.
        encode = tokenizer.encode_batch_fast if self.unknown_id is None else tokenizer.encode_batch
        with tokenizer_failures("The tokenizer cannot encode a text"):
            encodings = encode(list(texts), add_special_tokens=False)
        begin = [] if self.begin_id is None else [self.begin_id]
        rows = [np.array(begin + encoding.ids, np.int32) for encoding in encodings]
        unknown = [self._unknown_bytes(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]
        lengths = np.array([len(row) for row in rows], np.int32)
        return Encoded(np.concatenate(rows) if rows else np.empty(0, np.int32), lengths, np.array(unknown, np.int32))

    def _unknown_bytes(self, encoding: Any, text: str) -> int:
        if self.unknown_id is None:
            return 0
        places = [place for place, token in enumerate(encoding.ids) if token == self.unknown_id]
        if not places:
            return 0
        offsets = encoding.offsets
        return sum(len(text[slice(*offsets[place])].encode("utf-8")) for place in places)


def _token(value: object) -> str | None:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
