"""The special tokens of a tokenizer's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.data.corpus.tokens import TextTokenizer
from ts4s_core.errors import SourceError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILES = ("tokenizer_config.json", "special_tokens_map.json")
#: What tokenizers without those files call the end of a text.
_USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>")


def tokenizer_of(folder: Path) -> TextTokenizer:
    """The tokenizer of a folder as language models use it.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        return TextTokenizer.of(files)
    except (OSError, KeyError) as exc:
        raise SourceError(f"Tokenizer in {folder} cannot be read: expected a file tokenizer.json, got {exc}") from exc


def special_ids(folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the tokens ``bos``, ``eos``, ``unk`` and ``pad``, those that there are.

    Args:
        folder: with ``tokenizer_config.json`` or ``special_tokens_map.json``, or neither.
        tokenizer: what is in its ``tokenizer.json``.
    """
    names: dict[str, str] = {}
    for file in _FILES:
        record = json.loads((folder / file).read_bytes()) if (folder / file).is_file() else {}
        for role in ("bos", "eos", "unk", "pad"):
            token = record.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                names.setdefault(role, token)
    usual = next((name for name in _USUAL_ENDS if tokenizer.token_to_id(name) is not None), None)
    if usual is not None:
        names.setdefault("eos", usual)
    found = {role: tokenizer.token_to_id(name) for role, name in names.items()}
    return {role: number for role, number in found.items() if number is not None}
