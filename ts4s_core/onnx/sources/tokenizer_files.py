"""The tokenizer of a source with all that its configuration says, as files that name nothing of the machine they were made on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from ts4s_core.data.tokenizers import Encoding
from ts4s_core.errors import SourceError
from ts4s_core.onnx.sources.folder import located, refuse_pointers

TOKENIZER_JSON = "tokenizer.json"
#: Where and how the tokenizer was loaded: true of this machine, not of the tokenizer.
_LOCAL_KEYS = (
    "name_or_path",
    "is_local",
    "local_files_only",
    "cache_dir",
    "_commit_hash",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
)
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "spm.model", "sentencepiece.model")
#: The library writes 1e30 where nothing limits a text.
_UNLIMITED = 2**31
#: Special tokens alone.
_FEW_TOKENS = 16
_HINTS = (TOKENIZER_JSON, "tokenizer_config.json", "vocab.txt", "vocab.json")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in _HINTS)


def source_tokenizer(source: str, beside: Path, *, given: str | None, vocabulary: object) -> dict[str, bytes]:
    """Files of a source's tokenizer: what ``model.tokenizer`` names, else what stands beside the source.

    Args:
        source: the source as the user named it, for the message.
        beside: the source's folder.
        given: ``model.tokenizer``.
        vocabulary: what its configuration says of the rows of its token table.

    Raises:
        SourceError: the tokenizer is missing or damaged, or has ids beyond the model's table.
    """
    rows = vocabulary if isinstance(vocabulary, int) else None
    if given is not None:
        return given_tokenizer(given, vocabulary=rows)
    if not has_tokenizer(beside):
        _refuse_sentencepiece(beside, setting=f"model.source {source}")
        raise SourceError(f"model.source {source} has no tokenizer: expected tokenizer.json beside it. Give model.tokenizer")
    return tokenizer_files(beside, setting=f"model.source {source}", vocabulary=rows)


def given_tokenizer(given: str, *, vocabulary: int | None) -> dict[str, bytes]:
    """Files of the tokenizer that ``model.tokenizer`` names: a folder, ``package:NAME`` or a hub id.

    Raises:
        SourceError: the tokenizer is missing or damaged, or has ids beyond ``vocabulary``.
    """
    _kind, folder = located(given, setting="model.tokenizer", with_model=False)
    return tokenizer_files(folder, setting=f"model.tokenizer {given}", vocabulary=vocabulary)


def tokenizer_files(folder: Path, *, setting: str, vocabulary: int | None) -> dict[str, bytes]:
    """The files of a fast tokenizer, ``tokenizer.json`` among them, by name. No network is used.

    Args:
        folder: a folder with ``tokenizer.json``, or with an older form that transformers can convert.
        setting: setting and value that named it, for the message.
        vocabulary: rows of the model's token table, if known.

    Raises:
        SourceError: if there is no tokenizer, it is damaged or slow, or it has ids beyond the model's table.
    """
    if not folder.is_dir() or not has_tokenizer(folder):
        _refuse_sentencepiece(folder, setting=setting)
        raise SourceError(f"{setting} has no tokenizer: expected a folder with tokenizer.json, as save_pretrained writes it")
    tokenizer = _loaded(folder, setting=setting)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise SourceError(
            f"{setting}: tokenizer and model do not fit together: expected token ids below {vocabulary} (vocab_size of "
            f"config.json), got the largest id {largest}. Give the model's own tokenizer as model.tokenizer"
        )
    with tempfile.TemporaryDirectory(prefix="ts4s-tokenizer-") as temporary:
        tokenizer.save_pretrained(temporary)
        files = {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir()) if path.is_file()}
    if TOKENIZER_JSON not in files:
        raise SourceError(f"{setting} has no fast tokenizer: expected tokenizer.json. Convert it with transformers first")
    for name in [name for name in files if name.endswith("_config.json")]:
        files[name] = _without_local_keys(files[name])
    return {**files, **_encoding_of(tokenizer, setting=setting).files()}


def tokenizer_hash(files: dict[str, bytes]) -> str:
    """Hash over the files of a tokenizer."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def _loaded(folder: Path, *, setting: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    refuse_pointers([folder / name for name in _HINTS if (folder / name).is_file()], setting=setting)
    try:
        if (folder / TOKENIZER_JSON).is_file() and not (folder / "tokenizer_config.json").is_file():
            loader: Any = PreTrainedTokenizerFast
            return loader(tokenizer_file=str(folder / TOKENIZER_JSON))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # the tokenizers library raises bare Exception on damaged files
        _refuse_sentencepiece(folder, setting=setting)
        raise SourceError(f"{setting}: tokenizer cannot be read: {type(exc).__name__}: {str(exc)[:300]}") from exc
    if len(tokenizer) <= _FEW_TOKENS:  # transformers makes an empty one where the class wants a file of another name
        _refuse_sentencepiece(folder, setting=setting)
    if not tokenizer.is_fast:
        raise SourceError(f"{setting} has a slow tokenizer only: expected tokenizer.json. Convert it with transformers first")
    return tokenizer


def _encoding_of(tokenizer: Any, *, setting: str) -> Encoding:
    """What the loaded tokenizer does beyond its ``tokenizer.json``.

    Raises:
        SourceError: its ``model_max_length`` is no length.
    """
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or longest < 1:
        raise SourceError(f"{setting}: model_max_length of tokenizer_config.json: expected a number of tokens, got {longest!r}")
    limit = int(longest) if longest < _UNLIMITED else None
    return Encoding(str(tokenizer.truncation_side), limit, bool(tokenizer.split_special_tokens))


def _refuse_sentencepiece(folder: Path, *, setting: str) -> None:
    """Say that a folder has the sentencepiece model of a tokenizer alone, if so.

    Raises:
        SourceError: with the way out.
    """
    found = next((name for name in _SENTENCEPIECE if (folder / name).is_file()), None)
    if found is not None and not (folder / TOKENIZER_JSON).is_file():
        raise SourceError(
            f"{setting} has a sentencepiece model alone ({found}): expected tokenizer.json. Where the packages sentencepiece and "
            "protobuf are installed, write it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )


def _without_local_keys(data: bytes) -> bytes:
    record = {name: value for name, value in json.loads(data).items() if name not in _LOCAL_KEYS}
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
