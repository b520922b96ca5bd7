"""The word-vector text form: a line a word, the word and its numbers apart by spaces; a first line ``count size`` or none.

word2vec, fastText and GloVe write it. Files may be larger than memory: only wanted words are kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ts4s_core.errors import SourceError

#: A line of 4,096 numbers of 20 characters, and a word.
MAX_LINE_CHARS = 100_000
MAX_SIZE = 4_096


@dataclass(frozen=True)
class WordVectors:
    """Vectors by word.

    Attributes:
        words: as in the file, or the decoded tokens of a model.
        matrix: (words, size) float32.
    """

    words: list[str]
    matrix: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return int(self.matrix.shape[1])


def vector_size(path: Path, *, setting: str) -> int:
    """The size of a file's vectors, from its first lines.

    Raises:
        SourceError: the file cannot be read, or does not hold word vectors.
    """
    for _word, vector in _vectors(path, wanted=None, setting=setting):
        return len(vector)
    raise SourceError(f"{setting} {path} holds no word vectors: expected lines of a word and its numbers, got none")


def read_word_vectors(path: Path, *, wanted: Collection[str] | None = None, setting: str = "word vectors") -> WordVectors:
    """Read vectors; of a word that occurs twice the first counts.

    Args:
        path: the file, UTF-8.
        wanted: words to keep; None: all.
        setting: what named the file, for messages.

    Raises:
        SourceError: naming the line that is damaged.
    """
    words: list[str] = []
    rows: list[NDArray[np.float32]] = []
    seen: set[str] = set()
    for word, vector in _vectors(path, wanted=wanted, setting=setting):
        if word not in seen:
            seen.add(word)
            words.append(word)
            rows.append(vector)
    size = len(rows[0]) if rows else vector_size(path, setting=setting)
    return WordVectors(words, np.stack(rows) if rows else np.empty((0, size), np.float32))


def word_vector_text(vectors: WordVectors) -> str:
    """The file's text, first line included. Words with white space, and empty ones, have no line: the form cannot hold them."""
    kept = [place for place, word in enumerate(vectors.words) if word and not any(letter.isspace() for letter in word)]
    lines = [f"{len(kept)} {vectors.size}"]
    lines += [" ".join([vectors.words[place], *(f"{number:.7g}" for number in vectors.matrix[place])]) for place in kept]
    return "\n".join(lines) + "\n"


def _vectors(path: Path, *, wanted: Collection[str] | None, setting: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    size = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARS), ""), start=1):
                word, *numbers = line.rstrip(" \r\n").split(" ")
                if (number == 1 and _is_head(word, numbers)) or (not word and not numbers):
                    continue
                size = size or len(numbers)
                if len(numbers) != size or not 0 < size <= MAX_SIZE:
                    raise _damaged(path, setting, number, f"expected a word and {size or 'some'} numbers, got {len(numbers)}")
                if wanted is None or word in wanted:
                    yield word, _numbers(numbers, path=path, setting=setting, line=number)
    except OSError as exc:
        raise SourceError(f"{setting} {path} cannot be read: {exc.strerror or exc}. Name a file of word vectors") from exc
    except UnicodeDecodeError as exc:
        raise SourceError(f"{setting} {path} is not UTF-8 text: {exc.reason} at byte {exc.start}. Convert it first") from exc


def _is_head(word: str, numbers: list[str]) -> bool:
    return len(numbers) == 1 and word.isdigit() and numbers[0].isdigit()


def _numbers(texts: list[str], *, path: Path, setting: str, line: int) -> NDArray[np.float32]:
    try:
        vector = np.array([float(text) for text in texts], np.float32)
    except ValueError as exc:
        raise _damaged(path, setting, line, f"expected numbers behind the word, got {str(exc)[:80]}") from exc
    if not math.isfinite(float(vector.sum())):
        raise _damaged(path, setting, line, "expected finite numbers")
    return vector


def _damaged(path: Path, setting: str, line: int, problem: str) -> SourceError:
    return SourceError(f"{setting} {path}, line {line}: {problem}. Give a file in word-vector text form")
