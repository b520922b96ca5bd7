"""The tokenizer of a model that is handed over: its files say all that ``predict`` does with a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ts4s_core.data.tokenizers import ENCODING_FILE, TOKENIZER_FILE, StoredTokenizer
from ts4s_core.handover.trained import Trained

CONFIG_FILE = "tokenizer_config.json"
FOLDER = "tokenizer"
#: What ``tokenizer.json`` has already: the library's classes would make another tokenizer of it.
_RESOLVED = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "backend",
    "do_lower_case",
    "max_length",
    "pad_to_multiple_of",
    "stride",
    "strip_accents",
    "tokenize_chinese_chars",
    "trim_offsets",
    "truncation_strategy",
)


def write_tokenizer(trained: Trained, folder: Path, *, beside: bool) -> str | None:
    """Write the tokenizer's files: for ``hf`` beside the model, where the library looks for them, else in a folder of their own.

    ``tokenizer.json`` alone, read by the tokenizers library, cuts and pads as ``predict`` does; so does Transformers with
    ``truncation=True`` and ``padding=True``. A language model's tokenizer, which cuts nothing, keeps its class and its padding.

    Returns:
        where they are in ``folder``; None: the model has no tokenizer.
    """
    source = trained.tokenizer_folder
    if not source.is_dir():
        return None
    target = folder if beside else folder / FOLDER
    for path in sorted(path for path in source.rglob("*") if path.is_file() and path.name != ENCODING_FILE):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():  # config.json of a tokenizer that was saved with its model
            shutil.copyfile(path, copy)
    stored, spec = StoredTokenizer.read(source), trained.spec
    config = target / CONFIG_FILE
    record = json.loads(config.read_bytes()) if config.is_file() else {}
    if spec.kind.head is not None:
        tokenizer = padded_tokenizer(stored, max_length=spec.max_length, pad_id=spec.pad_id)
        tokenizer.save(str(target / TOKENIZER_FILE))
        record = _resolved(record, stored, tokenizer)
    record["model_max_length"] = stored.encoding.within(spec.max_length)
    config.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return "." if beside else FOLDER


def padded_tokenizer(stored: StoredTokenizer, *, max_length: int, pad_id: int) -> Tokenizer:
    """The tokenizer that cuts texts, and pads batches on the right to their longest, where it has a token for that."""
    tokenizer = stored.load(max_length=max_length)
    token = tokenizer.id_to_token(pad_id)
    if token is not None:
        tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=token)
    return tokenizer


def _resolved(record: dict[str, Any], stored: StoredTokenizer, tokenizer: Tokenizer) -> dict[str, Any]:
    """The configuration of the library's class that takes ``tokenizer.json`` as it is."""
    kept = {name: value for name, value in record.items() if name not in _RESOLVED}
    padding = tokenizer.padding
    return {
        **kept,
        **({} if padding is None else {"pad_token": padding["pad_token"]}),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],  # token types are zeros, which is what is taken without them
        "truncation_side": stored.encoding.truncation_side,
        "padding_side": "right",
        "split_special_tokens": stored.encoding.split_special_tokens,
    }
