from __future__ import annotations

import numpy as np
import pytest

from ts4s_core.evaluation.figures.drift import DRIFT_BOUND, Sample, drift, drift_reasons, psi


def texts(
    count: int, *, seed: int, words: int = 12, prefix: str = "w", names: tuple[str, ...] = ("a", "b"), skew: float = 0.5
) -> Sample:
    random = np.random.default_rng(seed)
    lines = [
        " ".join(f"{prefix}{number}" for number in np.minimum(random.zipf(1.3, max(1, random.poisson(words))), 5_000))
        for _ in range(count)
    ]
    return Sample(lines, [(names[int(random.random() > skew)],) for _ in range(count)])


def test_psi_by_hand() -> None:
    assert psi([10, 30], [10, 30]) == 0.0
    before, after = np.array([10.5, 30.5]) / 41, np.array([30.5, 10.5]) / 41
    assert psi([10, 30], [30, 10]) == pytest.approx(((after - before) * np.log(after / before)).sum())


@pytest.mark.parametrize("count", [30, 300, 5_000])
def test_two_samples_of_one_population_have_not_drifted(count: int) -> None:
    for seed in range(3):
        figures = drift(texts(count, seed=seed), texts(count, seed=100 + seed))
        assert drift_reasons(figures) == [], figures


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("length", {"words": 40}),
        ("vocabulary", {"prefix": "palabra"}),
        ("labels", {"skew": 0.95}),
        ("labels", {"names": ("a", "c")}),
    ],
)
def test_each_drift_is_found_in_small_and_large_samples(what: str, changed: dict[str, object]) -> None:
    for count in (200, 2_000):
        figures = drift(texts(count, seed=1), texts(count, seed=2, **changed))  # type: ignore[arg-type]
        assert figures[what]["psi"] - figures[what]["noise"] > DRIFT_BOUND
        assert {name for name, figure in figures.items() if figure["beyond"]} == {what}
        assert f"data drift in {what}: population stability index" in drift_reasons(figures)[0]


def test_texts_without_words_and_labels_are_taken() -> None:
    figures = drift(Sample([" "], [()]), Sample(["one two"], [("a",)]))
    assert all(np.isfinite(figure["psi"]) for figure in figures.values())
