"""The choice of the next token from its logits: pure functions of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ts4s_core.settings import GenerateSettings


def random_of_prompt(seed: int, prompt: str) -> np.random.Generator:
    """The random numbers of one text: they depend on the seed and the prompt, not on the other prompts of a run."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def next_token(
    logits: NDArray[np.floating], options: GenerateSettings, *, random: np.random.Generator, never: Collection[int] = ()
) -> int:
    """Choose a token.

    Args:
        logits: (V,), of the last position.
        options: ``temperature`` (0: always the likeliest, the lowest id of equals), ``top_k``, ``top_p``.
        random: gives one number for each choice.
        never: ids that are not chosen.
    """
    scores = np.array(logits, np.float64)
    scores[list(never)] = -np.inf
    if options.temperature == 0:
        return int(np.argmax(scores))
    order, probabilities = candidates(scores, options)
    bounds = np.cumsum(probabilities)
    place = np.searchsorted(bounds, random.random() * bounds[-1], side="right")
    return int(order[min(place, len(order) - 1)])


def candidates(scores: NDArray[np.float64], options: GenerateSettings) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be chosen, likeliest first (equals by id), and their probabilities, which add up to 1."""
    order = np.argsort(-scores, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    shifted = (scores[order] - scores[order[0]]) / options.temperature
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum()
    if options.top_p < 1:
        # The fewest tokens that together hold top_p: the one that crosses the bound is among them.
        kept = int(np.searchsorted(np.cumsum(probabilities), options.top_p, side="left")) + 1
        order, probabilities = order[:kept], probabilities[:kept] / probabilities[:kept].sum()
    return order, probabilities
