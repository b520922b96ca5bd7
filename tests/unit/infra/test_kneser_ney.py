"""The n-gram baseline against numbers by hand and against its definition, written out with dictionaries."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "infra" / "benchmarks"))

from kneser_ney import KneserNey


def test_a_bigram_model_by_hand():
    # Bigrams of 0 1 0 1 2 | 0 2: 01 twice; 10, 12, 02 once. D = 3 / (3 + 2 * 1) = 0.6.
    # Different tokens in front of 0: {1}, of 1: {0}, of 2: {1, 0}. D = 2 / (2 + 2 * 1) = 0.5.
    model = KneserNey([np.array([0, 1, 0, 1, 2]), np.array([0, 2])], order=2, vocabulary=4)
    assert [level.discount for level in model.levels] == [0.5, 0.6]
    uniform = 0.5 * 3 / 4 / 4  # discount x types / total x 1 / V
    one, two = (1 - 0.5) / 4 + uniform, (2 - 0.5) / 4 + uniform
    after_zero = 0.6 * 2 / 3
    expected = {1: (2 - 0.6) / 3 + after_zero * one, 2: (1 - 0.6) / 3 + after_zero * two, 3: after_zero * uniform}
    for token, probability in expected.items():
        assert model.probabilities(np.array([0, token]))[1] == pytest.approx(probability)
    # A token that was never followed by anything: the unigrams alone.
    assert model.probabilities(np.array([2, 1]))[1] == pytest.approx(one)
    assert model.probabilities(np.array([2]))[0] == pytest.approx(two)
    first_two = model.bits([np.array([0, 1]), np.array([2, 1])], skip=1)
    assert first_two == pytest.approx(-np.log2(expected[1]) - np.log2(one))


def by_definition(sequences: list[list[int]], context: tuple[int, ...], token: int, *, vocabulary: int, order: int) -> float:
    """P(token | context), recursively."""

    def counts_of(length: int) -> Counter[tuple[int, ...]]:
        grams = [tuple(s[i : i + order]) for s in sequences for i in range(len(s) - order + 1)]
        counts = Counter(grams)
        for _ in range(order - length):  # continuation counts of the next shorter
            counts = Counter(gram[1:] for gram in counts)
        return counts

    def probability(context: tuple[int, ...]) -> float:
        length = len(context) + 1
        counts = counts_of(length)
        ones, twos = (sum(count == n for count in counts.values()) for n in (1, 2))
        discount = ones / (ones + 2 * twos) if ones else 0.0
        below = probability(context[1:]) if context else 1 / vocabulary
        here = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if not here:
            return below
        total = sum(here.values())
        return max(here.get((*context, token), 0) - discount, 0) / total + discount * len(here) / total * below

    return probability(context)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_against_the_definition(order):
    random = np.random.default_rng(order)
    sequences = [random.choice(6, int(random.integers(1, 25)), p=[0.4, 0.3, 0.1, 0.1, 0.06, 0.04]) for _ in range(6)]
    model = KneserNey(sequences, order=order, vocabulary=7)
    held_out = random.integers(0, 7, 30)
    found = model.probabilities(held_out)
    for place, token in enumerate(held_out):
        context = tuple(int(number) for number in held_out[max(0, place - order + 1) : place])
        lists = [sequence.tolist() for sequence in sequences]
        assert found[place] == pytest.approx(by_definition(lists, context, int(token), vocabulary=7, order=order))


@pytest.mark.parametrize("order", [2, 3])
def test_probabilities_add_up_to_one(order):
    random = np.random.default_rng(0)
    model = KneserNey([random.integers(0, 9, 200) ** 2 // 8], order=order, vocabulary=9)
    for context in ([], [0], [3, 1], [8, 8], [2, 7]):
        total = sum(model.probabilities(np.array([*context, token]))[-1] for token in range(9))
        assert total == pytest.approx(1.0)


def test_orders_that_do_not_fit_into_64_bits_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        KneserNey([np.array([1])], order=5, vocabulary=50_000)
