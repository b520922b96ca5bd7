"""Facts of predictions."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts


class PredictionFacts(Facts):
    """What a prediction says of the rows that it wrote.

    Attributes:
        rows: in all.
        errors: rows that could not be predicted and are marked.
        rows_per_s: speed.
        seconds: it took.
        model: reference of the trained version.
        runtime: ``onnxruntime`` or ``torch``.
        labels: names of the columns of probabilities; none for embeddings.
    """

    NOUN: ClassVar[str] = "prediction"
    REMEDY: ClassVar[str] = "Predict again"

    rows: int
    errors: int
    rows_per_s: float
    seconds: float
    model: str
    runtime: str
    labels: list[str]
