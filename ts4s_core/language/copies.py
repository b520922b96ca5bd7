"""Whether a generated text is new, and made of the corpus's own words."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

#: A generated text may share shorter runs of tokens than this with the corpus.
SPAN = 12
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: letters, with apostrophes inside."""
    return [word.lower() for word in _WORD.findall(text)]


def longest_copy(text: Sequence[int], corpus: NDArray[np.integer]) -> int:
    """Length of the longest run of tokens that a text has in common with a corpus.

    Args:
        text: token ids of the text.
        corpus: token ids of the corpus, (tokens,).
    """
    ids = np.asarray(text, np.int64)
    best = 0
    # Runs that end at each place of the corpus with the token before; one row of the usual table at a time.
    running = np.zeros(len(corpus) + 1, np.int64)
    for token in ids:
        running[1:] = np.where(corpus == token, running[:-1] + 1, 0)
        best = max(best, int(running.max()))
    return best


def share_of_known_words(text: str, corpus_words: Collection[str]) -> float:
    """Share of a text's words that are words of the corpus; 0 for a text without words.

    Args:
        text: the generated text.
        corpus_words: what :func:`words_of` gives of the corpus, best as a set.
    """
    words = words_of(text)
    return sum(word in corpus_words for word in words) / len(words) if words else 0.0
