"""Interpolated Kneser-Ney n-gram models over token ids: the baseline of the language models.

The highest order counts n-grams, the lower ones count the different tokens that an n-gram was seen behind (continuation
counts). Every order takes an absolute discount D = n1 / (n1 + 2 n2) off each count (n1 and n2: how many n-grams of that
order were counted once and twice) and gives what it took to the order below; below the unigrams is the uniform
distribution over the vocabulary, so that no token has probability 0. Counts are looked up in sorted arrays, so that a
corpus of millions of tokens takes seconds.

Sequences are independent: no n-gram goes over the end of one. A sequence's first tokens are predicted with as much
context as they have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """The counts of one order.

    Attributes:
        keys: every n-gram as one number, sorted.
        counts: of each n-gram: how often (highest order), or behind how many different tokens.
        contexts: the first n - 1 tokens of an n-gram as one number, sorted.
        totals: sum of ``counts`` over the n-grams of a context.
        types: number of different n-grams of a context.
        discount: what is taken off each count.
    """

    keys: Ids
    counts: Floats
    contexts: Ids
    totals: Floats
    types: Floats
    discount: float

    @classmethod
    def of(cls, keys: Ids, counts: Ids, *, vocabulary: int) -> Level:
        """The level of sorted n-grams and their counts."""
        contexts, places = np.unique(keys // vocabulary, return_inverse=True)
        ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
        discount = ones / (ones + 2 * twos) if ones else 0.0
        totals = np.bincount(places, weights=counts, minlength=len(contexts))
        types = np.bincount(places, minlength=len(contexts)).astype(np.float64)
        return cls(keys, counts.astype(np.float64), contexts, totals, types, discount)

    def interpolate(self, keys: Ids, contexts: Ids, lower: Floats) -> Floats:
        """Probability of n-grams, given that of their last token at the order below; ``lower`` where the context is new."""
        at, known = _find(self.contexts, contexts)
        totals, types = self.totals[at], self.types[at]
        place, seen = _find(self.keys, keys)
        counted = np.where(seen, np.maximum(self.counts[place] - self.discount, 0.0), 0.0)
        return np.where(known, (counted + self.discount * types * lower) / totals, lower)


class KneserNey:
    """An interpolated Kneser-Ney model of a given order.

    Args:
        sequences: the training tokens.
        order: 2 for a bigram model, 3 for a trigram model, ...
        vocabulary: number of tokens that there are; ids are below it.
    """

    def __init__(self, sequences: Sequence[NDArray[np.integer]], *, order: int, vocabulary: int) -> None:
        if float(vocabulary) ** order >= 2.0**63:
            raise ValueError(f"an n-gram of order {order} over {vocabulary} tokens does not fit into 64 bits")
        self.order = order
        self.vocabulary = vocabulary
        grams = np.concatenate([_grams(np.asarray(tokens, np.int64), order, vocabulary) for tokens in sequences])
        keys, counts = np.unique(grams, return_counts=True)
        self.levels = [Level.of(keys, counts, vocabulary=vocabulary)]
        for shorter in range(order - 1, 0, -1):
            # Continuation counts: for each shorter n-gram the different tokens in front of it.
            keys, counts = np.unique(keys % vocabulary**shorter, return_counts=True)
            self.levels.insert(0, Level.of(keys, counts, vocabulary=vocabulary))

    def probabilities(self, tokens: NDArray[np.integer]) -> Floats:
        """The probability of each token of a sequence, given those before it in the sequence."""
        tokens = np.asarray(tokens, np.int64)
        place = np.arange(len(tokens))
        found = np.full(len(tokens), 1.0 / self.vocabulary)
        for shorter, level in enumerate(self.levels):
            enough = place >= shorter
            keys = tokens.copy()
            for back in range(1, shorter + 1):
                keys[back:] += tokens[:-back] * self.vocabulary**back
            better = level.interpolate(keys, keys // self.vocabulary, found)
            found = np.where(enough, better, found)
        return found

    def bits(self, sequences: Sequence[NDArray[np.integer]], *, skip: int = 0) -> float:
        """Bits that the sequences take, each without its first ``skip`` tokens, which serve as context alone."""
        return sum(float(-np.log2(self.probabilities(tokens)[skip:]).sum()) for tokens in sequences if len(tokens))


def _grams(tokens: Ids, order: int, vocabulary: int) -> Ids:
    if len(tokens) < order:
        return np.empty(0, np.int64)
    keys = np.zeros(len(tokens) - order + 1, np.int64)
    for offset in range(order):
        keys = keys * vocabulary + tokens[offset : len(tokens) - order + 1 + offset]
    return keys


def _find(table: Ids, wanted: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Where each wanted number is in a sorted table (any place if it is not), and whether it is."""
    place = np.minimum(np.searchsorted(table, wanted), max(len(table) - 1, 0))
    return place, table[place] == wanted if len(table) else np.zeros(len(wanted), np.bool_)


def bits_per_byte(bits: float, size: int) -> float:
    """Bits for each byte of text."""
    return bits / size if size else math.nan
