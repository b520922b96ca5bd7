"""The embeddings of a trained model as word vectors: a table, the text form, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ts4s_core.artifacts.parquet_writer import RowGroupWriter
from ts4s_core.data.tokenizers import load_tokenizer
from ts4s_core.errors import IntegrityError
from ts4s_core.language.word_vector_file import WordVectors, word_vector_text
from ts4s_core.models.model_folder import ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ts4s_core.artifacts.writer import ArtifactWriter

TABLE_FILE, TEXT_FILE, NEIGHBOURS_FILE = "word_vectors.parquet", "word_vectors.txt", "neighbours.json"
NEIGHBOURS = 8
_LEAST_LETTERS = 4


@dataclass(frozen=True)
class TokenVectors:
    """A model's token embeddings.

    Attributes:
        tokens: as the vocabulary spells them (``Ġthe``, ``##ing``), by id.
        words: the text that each stands for, without white space around it; several tokens may have one.
        matrix: (tokens, size) float32.
    """

    tokens: list[str]
    words: list[str]
    matrix: NDArray[np.float32]

    @property
    def vectors(self) -> WordVectors:
        """Under the words, each once: of tokens with one word the one that begins a word, which has the lowest id of those."""
        first: dict[str, int] = {}
        for place in sorted(range(len(self.words)), key=lambda place: (not _begins_word(self.tokens[place]), place)):
            first.setdefault(self.words[place], place)
        kept = sorted(place for word, place in first.items() if word)
        return WordVectors([self.words[place] for place in kept], self.matrix[kept])


@dataclass(frozen=True)
class Neighbours:
    """The nearest words of a word.

    Attributes:
        word: the one asked for.
        nearest: words and cosines, nearest first; empty if the model has no vector of the word.
    """

    word: str
    nearest: tuple[tuple[str, float], ...]


def token_vectors(folder: Path) -> TokenVectors:
    """The token embeddings of a ``model`` or ``trained`` artifact, of any task.

    Raises:
        IntegrityError: its files are damaged, or have no table of token vectors.
        SourceError: it has no tokenizer.
    """
    opened = ModelFolder(folder)
    tokenizer = load_tokenizer(opened.tokenizer_folder)
    model = opened.build()
    size = model.spec.vocab_size
    tables = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and parameter.shape[0] == size and ("embed" in name.lower() or name.endswith("wte.weight"))
    ]
    if not tables:
        raise IntegrityError(f"Token vectors of {folder.name}: expected a table of {size} tokens among the weights, got none")
    matrix = tables[0][1].detach().numpy()
    names = [tokenizer.id_to_token(number) or "" for number in range(min(size, tokenizer.get_vocab_size()))]
    return TokenVectors(names, token_words(tokenizer, names), np.ascontiguousarray(matrix[: len(names)]))


def token_words(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[str]:
    """The text that each token stands for, without white space around it; empty for special tokens and broken characters."""
    special = {number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    decoded = tokenizer.decode_batch([[number] for number in range(len(tokens))], skip_special_tokens=False)
    return ["" if number in special or "�" in text else text.strip() for number, text in enumerate(decoded)]


def neighbours(vectors: WordVectors, words: Sequence[str], *, count: int = NEIGHBOURS) -> list[Neighbours]:
    """The nearest other words of some words by cosine; a word without a vector has none."""
    lengths = np.linalg.norm(vectors.matrix, axis=1, keepdims=True)
    unit = vectors.matrix / np.maximum(lengths, np.finfo(np.float32).tiny)
    places = {word: place for place, word in enumerate(vectors.words)}
    found = []
    for word in words:
        place = places.get(word)
        if place is None:
            found.append(Neighbours(word, ()))
            continue
        cosines = unit @ unit[place]
        order = [int(other) for other in np.argsort(-cosines, kind="stable") if other != place][:count]
        found.append(Neighbours(word, tuple((vectors.words[other], round(float(cosines[other]), 4)) for other in order)))
    return found


def frequent_words(vectors: WordVectors, *, count: int = NEIGHBOURS) -> list[str]:
    """Words to show when none were chosen: the longer words of the lowest ids, which a trained tokenizer met most often."""
    longer = [word for word in vectors.words if len(word) >= _LEAST_LETTERS and word.isalpha()]
    return longer[:count]


def vector_table(vectors: TokenVectors) -> pa.Table:
    """Columns ``id`` (int32), ``token``, ``word`` (string), ``vector`` (list of float32)."""
    size = vectors.matrix.shape[1]
    flat = pa.array(vectors.matrix.reshape(-1), pa.float32())
    return pa.table(
        {
            "id": pa.array(range(len(vectors.tokens)), pa.int32()),
            "token": pa.array(vectors.tokens, pa.string()),
            "word": pa.array(vectors.words, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, size).cast(pa.list_(pa.float32())),
        }
    )


def write_word_vectors(writer: ArtifactWriter, folder: Path, *, words: Sequence[str] = ()) -> list[Neighbours]:
    """Put a model's word vectors into an artifact: the table, the text form, and the neighbours of some words.

    Args:
        writer: of the artifact (a report).
        folder: of the ``trained`` artifact.
        words: whose neighbours are wanted; none: some frequent ones.

    Returns:
        the neighbours, for the report's page.
    """
    found = token_vectors(folder)
    sink, table = pa.BufferOutputStream(), vector_table(found)
    with RowGroupWriter(sink, table.schema) as rows:
        rows.write(table)
    writer.add_bytes(TABLE_FILE, sink.getvalue().to_pybytes())
    writer.add_bytes(TEXT_FILE, word_vector_text(found.vectors).encode())
    near = neighbours(found.vectors, list(words) or frequent_words(found.vectors))
    writer.add_json(NEIGHBOURS_FILE, [asdict(entry) for entry in near])
    return near


def _begins_word(token: str) -> bool:
    return token.startswith(("Ġ", "▁"))
