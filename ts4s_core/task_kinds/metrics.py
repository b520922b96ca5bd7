"""What the gate compares models by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure of an evaluation.

    Attributes:
        name: in metrics, settings and decisions.
        shown: in reports and messages.
        constant: the best constant answer, which a first version has to beat.
        higher_is_better: whether more of it is better.
    """

    name: str
    shown: str
    constant: str = "the majority class"
    higher_is_better: bool = True


ACCURACY = Metric("accuracy", "accuracy")
MACRO_F1 = Metric("macro_f1", "macro-F1")
LOSS = Metric("loss", "loss", higher_is_better=False)
BITS_PER_BYTE = Metric("bits_per_byte", "bits per byte", "how often each token occurs", higher_is_better=False)
OF_CLASSES = (ACCURACY, MACRO_F1, LOSS)
