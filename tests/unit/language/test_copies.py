"""The check of a sample: nothing copied, words of the corpus."""

from __future__ import annotations

import numpy as np
import pytest

from ts4s_core.language.copy_guard import CopyGuard, longest_copy, share_of_known_words, words_of


def longest_by_hand(text: list[int], corpus: list[int]) -> int:
    spans = {tuple(corpus[a:b]) for a in range(len(corpus)) for b in range(a + 1, len(corpus) + 1)}
    return max((b - a for a in range(len(text)) for b in range(a + 1, len(text) + 1) if tuple(text[a:b]) in spans), default=0)


def test_longest_copy():
    random = np.random.default_rng(0)
    for _ in range(20):
        text, corpus = random.integers(0, 3, 12), random.integers(0, 3, 30)
        assert longest_copy(text, corpus) == longest_by_hand(text.tolist(), corpus.tolist())
    corpus = np.arange(1_000)
    assert longest_copy([5, *range(100, 112), 5], corpus) == 12
    assert longest_copy([], corpus) == 0
    assert longest_copy([-1], corpus) == 0


def test_known_words():
    known = set(words_of("The man's dog, it is 7 years old"))
    assert known == {"the", "man's", "dog", "it", "is", "years", "old"}
    assert share_of_known_words("the DOG barks 9 times", known) == pytest.approx(2 / 4)
    assert share_of_known_words("... 12", known) == 0


def test_a_guard_keeps_runs_short():
    random = np.random.default_rng(1)
    blocks = [random.integers(0, 4, int(size)) for size in (60, 3, 1, 40)]
    guard = CopyGuard(blocks, longest=3)
    spans = {tuple(block[place : place + 4].tolist()) for block in blocks for place in range(len(block) - 3)}
    for _ in range(50):
        ids = random.integers(0, 4, 7).tolist()
        refused = set(guard.refused(ids).tolist())
        assert refused == {token for token in range(4) if (*ids[-3:], token) in spans}
    assert guard.refused([1, 2]).tolist() == []
    assert CopyGuard([], longest=2).refused([1, 2, 3]).tolist() == []
