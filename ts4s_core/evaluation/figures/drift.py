"""How far the texts have moved since the champion was trained: population stability index (PSI) of three things.

PSI of two distributions p and q over B bins is sum((p - q) * ln(p / q)): below 0.1 is usually called stable, above 0.25 a shift.
From finite samples of n and m texts of one and the same population its expected value is about (B - 1)(1/n + 1/m); that is taken
off before the comparison, so that small data are not called drifted for being small.

Measured, each independent of any tokenizer:

- ``length``: words a text, in the champion data's deciles.
- ``vocabulary``: in how many texts each of the champion data's most frequent words occurs, the others together in one bin.
- ``labels``: shares of the label names.

The bound for each is ``evaluate.max_drift``, 0.25 by default.
A dataset keeps its rows in the order of the texts' hash, so its first rows are a random sample, the same in every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRIFT_BOUND = 0.25
LENGTH_BINS = 10
MOST_WORDS = 100
#: A word's bin stands for at least about this many texts of the sample.
TEXTS_PER_WORD = 20
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class Sample:
    """Some rows of a training side: texts, and the names of each text's labels."""

    texts: Sequence[str]
    labels: Sequence[Sequence[str]]


def psi(old: npt.ArrayLike, new: npt.ArrayLike) -> float:
    """PSI of two vectors of counts over the same bins; a half is added to every bin so that an empty one stays finite."""
    before = np.asarray(old, dtype=np.float64) + _PSEUDO_COUNT
    after = np.asarray(new, dtype=np.float64) + _PSEUDO_COUNT
    before, after = before / before.sum(), after / after.sum()
    return float(((after - before) * np.log(after / before)).sum())


def drift(old: Sample, new: Sample, *, bound: float = DRIFT_BOUND) -> dict[str, dict[str, Any]]:
    """``{"length" | "vocabulary" | "labels": {"psi", "noise", "bound", "beyond"}}`` of two samples, none empty."""
    pairs: dict[str, tuple[list[Any], list[Any]]] = {
        "length": _lengths(old, new),
        "vocabulary": _words(old, new),
        "labels": _labels(old, new),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, (before, after) in pairs.items():
        value = psi(before, after)
        noise = (len(before) - 1) * (1 / len(old.texts) + 1 / len(new.texts))
        figures[name] = {
            "psi": value,
            "noise": noise,
            "bound": bound,
            "beyond": bool(value - noise > bound),
        }
    return figures


def drift_reasons(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One clause for each of the three that is beyond its bound."""
    return [
        f"data drift in {name}: population stability index {figure['psi']:.3f} (of which noise about {figure['noise']:.3f}) "
        f"is beyond {figure['bound']:g}"
        for name, figure in figures.items()
        if figure["beyond"]
    ]


def words_of(text: str) -> list[str]:
    """Lower-case words, split at white space."""
    return text.casefold().split()


def _lengths(old: Sample, new: Sample) -> tuple[list[float], list[float]]:
    before = np.array([len(words_of(text)) for text in old.texts])
    after = np.array([len(words_of(text)) for text in new.texts])
    edges = np.unique(np.quantile(before, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    size = len(edges) + 1
    return tuple(np.bincount(np.digitize(side, edges), minlength=size).tolist() for side in (before, after))  # type: ignore[return-value]


def _words(old: Sample, new: Sample) -> tuple[list[float], list[float]]:
    before, after = _texts_per_word(old.texts), _texts_per_word(new.texts)
    most = int(np.clip(min(len(old.texts), len(new.texts)) // TEXTS_PER_WORD, LENGTH_BINS, MOST_WORDS))
    # Ties are broken by the word: the same sample gives the same bins.
    chosen = [word for word, _count in sorted(before.items(), key=lambda item: (-item[1], item[0]))[:most]]
    return _share_of_texts(before, chosen, len(old.texts)), _share_of_texts(after, chosen, len(new.texts))


def _texts_per_word(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in set(words_of(text)))


def _share_of_texts(counts: Counter[str], chosen: Sequence[str], texts: int) -> list[float]:
    """Occurrences by bin, scaled to one a text: a text's words come together, so texts are what is independent."""
    whole = max(sum(counts.values()), 1)
    known = [counts[word] * texts / whole for word in chosen]
    return [*known, texts - sum(known)]


def _labels(old: Sample, new: Sample) -> tuple[list[int], list[int]]:
    before: Counter[Hashable] = Counter(name for names in old.labels for name in names)
    after: Counter[Hashable] = Counter(name for names in new.labels for name in names)
    names = sorted(set(before) | set(after), key=str)
    return [before[name] for name in names], [after[name] for name in names]
