"""Fast tokenizers from a folder with ``tokenizer.json``; nothing else of that folder is run or trusted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.process_state import PROCESS

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, and whether it was cut."""

    ids: list[int]
    truncated: bool


@contextlib.contextmanager
def tokenizer_failures(what: str) -> Iterator[None]:
    """Map what the library raises to SourceError: exceptions, and panics of its Rust code, which do not derive from Exception."""
    try:
        yield
    except BaseException as exc:
        if isinstance(exc, Exception) or type(exc).__name__ == "PanicException":
            raise SourceError(f"{what}: {exc}. Save the tokenizer again with save_pretrained") from exc
        raise


def load_tokenizer(folder: Path, *, max_length: int | None = None) -> Tokenizer:
    """The tokenizer of a folder, without padding, cutting texts to ``max_length`` tokens if that is given.

    Raises:
        SourceError: if the folder has no tokenizer.json, or it cannot be read.
        SettingsError: if the special tokens alone need ``max_length`` tokens.
    """
    path = folder / TOKENIZER_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(f"Tokenizer in {folder} cannot be read: expected a file {TOKENIZER_FILE}, got {exc}") from exc
    tokenizer = tokenizer_from(text, where=str(path))
    return tokenizer if max_length is None else limited(tokenizer, max_length)


def tokenizer_from(text: str, *, where: str = TOKENIZER_FILE) -> Tokenizer:
    """The tokenizer that the text of a ``tokenizer.json`` describes, without padding or truncation.

    Raises:
        SourceError: if the text is not a valid ``tokenizer.json``.
    """
    with tokenizer_failures(f"Tokenizer {where} cannot be read"):
        tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """Hash over name and content of every file of a tokenizer's folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def pad_id_of(folder: Path) -> int:
    """The id that a batch is filled up with: the tokenizer's own padding, else its pad token, else 0.

    Raises:
        SourceError: if the folder has no readable tokenizer.
    """
    tokenizer = load_tokenizer(folder)
    padding = _json(folder / TOKENIZER_FILE).get("padding")
    if isinstance(padding, dict) and isinstance(padding.get("pad_id"), int):
        return int(padding["pad_id"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(folder / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is not None:
            return int(found)
    return 0


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SourceError(f"Tokenizer file {path} cannot be read: {exc}") from exc
    return value if isinstance(value, dict) else {}


def limited(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """The tokenizer, cutting texts to ``max_length`` tokens, special ones included.

    Raises:
        SettingsError: if the special tokens alone need that many.
    """
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if special >= max_length:
        raise SettingsError(
            f"model.max_length {max_length} leaves no room for text: this tokenizer adds {special} special tokens. "
            f"Use {special + 1} or more"
        )
    tokenizer.enable_truncation(max_length)
    return tokenizer


def shared_tokenizer(text: str, max_length: int | None = None) -> Tokenizer:
    """One tokenizer for all tasks of a process, without padding, cut to ``max_length`` tokens if given. Not to be changed.

    Each tokenizer that has encoded keeps some memory of its threads for good when it goes.

    Raises:
        SourceError: if the text describes none.
        SettingsError: if the special tokens alone need ``max_length`` tokens.
    """

    def make() -> Tokenizer:
        tokenizer = tokenizer_from(text)
        return tokenizer if max_length is None else limited(tokenizer, max_length)

    return PROCESS.get_or_make("tokenizer", (text, max_length), make)


def limit_tokenizer_threads(threads: int) -> None:
    """Let tokenizers that encode from now on start so many threads: they would start one for every core, in every task."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], *, fallback_id: int) -> list[Tokens]:
    """Token ids of a batch of texts; a text that has none (all its characters dropped) becomes ``fallback_id``.

    Raises:
        SourceError: if the tokenizer is damaged in a way that only shows now.
    """
    with tokenizer_failures("The tokenizer cannot encode a text"):
        encodings = tokenizer.encode_batch_fast(list(texts))
    return [Tokens(list(encoding.ids) or [fallback_id], bool(encoding.overflowing)) for encoding in encodings]
