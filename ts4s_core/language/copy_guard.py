"""Whether a generated text is new, and made of the corpus's own words; and how it is kept from copying."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.artifacts.versions.refs import ArtifactRef

log = logging.getLogger(__name__)

#: A generated text may share shorter runs of tokens than this with the corpus.
SPAN = 12
#: A larger corpus is not watched: its runs would take more than half a GiB.
MOST_TOKENS = 2**25
_SIDES = ("train", "validation", "test")
_MULTIPLIER_SEED = 20_261_121
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


class CopyGuard:
    """Knows which token would make a run of tokens one that stands in a corpus.

    Args:
        blocks: token ids of the corpus; no run goes over the end of a block.
        longest: length of the longest run that is allowed, at least 1.
    """

    def __init__(self, blocks: Iterable[NDArray[np.integer]], *, longest: int) -> None:
        random = np.random.Generator(np.random.Philox(_MULTIPLIER_SEED))
        # Odd multipliers, added up modulo 2^64: two runs of one number are as good as never met, and would only cost a token.
        self._multipliers = random.integers(0, 2**63, longest, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        runs, following = [], []
        for block in blocks:
            if len(block) > longest:
                windows = np.lib.stride_tricks.sliding_window_view(np.asarray(block).astype(np.uint64), longest)[:-1]
                runs.append(windows @ self._multipliers)
                following.append(np.asarray(block[longest:], np.int64))
        keys = np.concatenate(runs) if runs else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._following = (np.concatenate(following) if following else np.empty(0, np.int64))[order]

    def refused(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """The tokens that would make the end of a text longer than is allowed."""
        longest = len(self._multipliers)
        if len(ids) < longest:
            return np.empty(0, np.int64)
        key = np.array(ids[-longest:], np.uint64) @ self._multipliers
        first, stop = (int(np.searchsorted(self._keys, key, side=side)) for side in ("left", "right"))
        return self._following[first:stop]


def guard_of(store: ArtifactStore, trained: ArtifactRef, *, longest: int) -> CopyGuard | None:
    """A guard over all text of the dataset that a model was trained on.

    Args:
        store: where both are.
        trained: the language model.
        longest: ``generate.max_copied_tokens``; 0: no guard.

    Returns:
        the guard; None if none is wanted, or the dataset is gone or too large (a warning says so).
    """
    from ts4s_core.artifacts.versions.refs import ArtifactRef
    from ts4s_core.data.corpus.dataset import TextDataset
    from ts4s_core.data.corpus.facts import CorpusFacts
    from ts4s_core.errors import NotFoundError

    if not longest:
        return None
    upstream = store.manifest(trained).upstream.get("dataset")
    try:
        if upstream is None:
            raise NotFoundError(f"{trained} names no dataset")
        facts = CorpusFacts.of(store.manifest(ArtifactRef.parse(upstream)))
        if sum(facts.tokens.values()) > MOST_TOKENS:
            log.warning("generated text is not kept from copying: %s is too large to be watched", upstream)
            return None
        with TextDataset.open(store, ArtifactRef.parse(upstream)) as dataset:
            tables = [table for side in _SIDES for table in dataset.read(side, ["input_ids"])]
    except NotFoundError as exc:
        log.warning("generated text is not kept from copying: %s", exc)
        return None
    return CopyGuard((np.array(ids) for table in tables for ids in table.column("input_ids").to_pylist()), longest=longest)
