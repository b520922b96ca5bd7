"""The tokenizer that the Param ``tokenizer`` names."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ts4s_core.data.tokenizers import TOKENIZER_FILE, StoredTokenizer, pad_id_of
from ts4s_core.errors import SourceError
from ts4s_core.host_user import expanded


def tokenizer_at(path: str) -> tuple[StoredTokenizer, int]:
    """A tokenizer, and the id that texts are filled up with.

    A folder's whole configuration is read, as Transformers does: lower case, added spaces, special tokens, where and to how much
    a text is cut. A file is ``tokenizer.json`` alone.

    Raises:
        SourceError: if it cannot be read.
    """
    place = expanded(path)
    if place.is_dir() and (place / TOKENIZER_FILE).is_file() and [name.name for name in place.glob("*.json")] == [TOKENIZER_FILE]:
        return StoredTokenizer.read(place), pad_id_of(place)
    if place.is_dir():
        from ts4s_core.onnx.sources.tokenizer_files import tokenizer_files  # brings Transformers

        with tempfile.TemporaryDirectory(prefix="ts4s-tokenizer-") as folder:
            for name, data in tokenizer_files(place, setting=f"tokenizer {path}", vocabulary=None).items():
                (Path(folder) / name).write_bytes(data)
            return StoredTokenizer.read(Path(folder)), pad_id_of(Path(folder))
    try:
        found = StoredTokenizer(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(f"tokenizer {path} cannot be read: expected {TOKENIZER_FILE} or a folder with it, got {exc}") from exc
    found.load(where=path)
    return found, 0
