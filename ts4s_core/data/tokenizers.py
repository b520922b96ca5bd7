"""Fast tokenizers from a folder with ``tokenizer.json``; nothing of that folder is run.

What a tokenizer's configuration says outside ``tokenizer.json`` was resolved when it was taken from its source: lower case,
added prefix spaces and special tokens are in the stored ``tokenizer.json``, the rest is in ``encoding.json`` beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.process_state import PROCESS

TOKENIZER_FILE = "tokenizer.json"
ENCODING_FILE = "encoding.json"


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


@dataclass(frozen=True)
class Encoding:
    """How texts are encoded beyond ``tokenizer.json``: content of ``encoding.json``, which is there where it is not the default.

    Batches are padded on the right, whatever the source's ``padding_side``: heads read the first token, and with absolute
    positions an answer would depend on the texts beside it.

    Attributes:
        truncation_side: where a long text loses tokens.
        longest: tokens of a text at most, special ones included (``model_max_length``); None: any number.
        split_special_tokens: whether a special token that a text spells out is text.
    """

    truncation_side: str = "right"
    longest: int | None = None
    split_special_tokens: bool = False

    @classmethod
    def parse(cls, data: bytes, *, where: str = ENCODING_FILE) -> Encoding:
        """What :meth:`files` wrote.

        Raises:
            SourceError: it is damaged.
        """
        try:
            found = cls(**json.loads(data))
            limited = found.longest is None or (type(found.longest) is int and found.longest > 0)
            if not (found.truncation_side in ("left", "right") and limited and isinstance(found.split_special_tokens, bool)):
                raise ValueError(str(found))
        except (ValueError, TypeError, RecursionError) as exc:
            raise SourceError(
                f"Tokenizer file {where} cannot be read: expected a truncation_side, a longest and split_special_tokens, got "
                f"{str(exc)[:200]}. Make the artifact again"
            ) from exc
        return found

    def files(self) -> dict[str, bytes]:
        """The file of it, by name; none for the default."""
        return {} if self == Encoding() else {ENCODING_FILE: json.dumps(asdict(self), sort_keys=True).encode() + b"\n"}

    def within(self, max_length: int) -> int:
        """Tokens that a text is cut to where ``model.max_length`` is so much."""
        return max_length if self.longest is None else min(max_length, self.longest)


@dataclass(frozen=True)
class StoredTokenizer:
    """A tokenizer as an artifact keeps it: text, so that executors need no file of the driver's.

    Attributes:
        text: content of ``tokenizer.json``.
        encoding: what is beyond it.
    """

    text: str
    encoding: Encoding = Encoding()

    @classmethod
    def read(cls, folder: Path) -> StoredTokenizer:
        """The tokenizer of a folder.

        Raises:
            SourceError: the folder has no tokenizer.json, or it cannot be read.
        """
        try:
            return cls.of({path.name: path.read_bytes() for name in _OWN_FILES if (path := folder / name).is_file()})
        except (OSError, UnicodeDecodeError, KeyError) as exc:
            raise SourceError(f"Tokenizer in {folder} cannot be read: expected a file {TOKENIZER_FILE}, got {exc}") from exc

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> StoredTokenizer:
        """The tokenizer of a tokenizer's files by name."""
        encoding = Encoding.parse(files[ENCODING_FILE]) if ENCODING_FILE in files else Encoding()
        return cls(files[TOKENIZER_FILE].decode("utf-8"), encoding)

    @property
    def largest_id(self) -> int:
        """The largest id of a token, added ones included: more than their count less one where ids have holes."""
        return max(self.load().get_vocab(with_added_tokens=True).values())

    def load(self, *, max_length: int | None = None, where: str = TOKENIZER_FILE) -> Tokenizer:
        """A new tokenizer without padding, cutting texts to ``max_length`` tokens and to its own limit if that is given.

        Raises:
            SourceError: the text is not a valid ``tokenizer.json``.
            SettingsError: the special tokens alone need so many.
        """
        tokenizer = tokenizer_from(self.text, where=where)
        tokenizer.encode_special_tokens = self.encoding.split_special_tokens
        if max_length is not None:
            tokenizer.enable_truncation(self._checked(tokenizer, max_length), direction=self.encoding.truncation_side)
        return tokenizer

    def shared(self, *, max_length: int | None = None) -> Tokenizer:
        """One tokenizer for all tasks of a process, as :meth:`load` makes it. Not to be changed.

        Each tokenizer that has encoded keeps some memory of its threads for good when it goes.
        """
        return PROCESS.get_or_make("tokenizer", (self, max_length), lambda: self.load(max_length=max_length))

    def _checked(self, tokenizer: Tokenizer, max_length: int) -> int:
        length, special = self.encoding.within(max_length), tokenizer.num_special_tokens_to_add(is_pair=False)
        if special < length:
            return length
        if length < max_length:
            raise SettingsError(
                f"The tokenizer's model_max_length {length} leaves no room for text: it adds {special} special tokens. "
                "Correct its tokenizer_config.json"
            )
        raise SettingsError(
            f"model.max_length {max_length} leaves no room for text: this tokenizer adds {special} special tokens. "
            f"Use {special + 1} or more"
        )


_OWN_FILES = (TOKENIZER_FILE, ENCODING_FILE)


def load_tokenizer(folder: Path, *, max_length: int | None = None) -> Tokenizer:
    """The tokenizer of a folder, as :meth:`StoredTokenizer.load` makes it.

    Raises:
        SourceError: if the folder has no tokenizer.json, or it cannot be read.
        SettingsError: if the special tokens alone need ``max_length`` tokens.
    """
    return StoredTokenizer.read(folder).load(max_length=max_length, where=str(folder / TOKENIZER_FILE))


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
