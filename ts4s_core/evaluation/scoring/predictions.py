"""What a model answered on the rows of a dataset side, as arrays.

Notation: N rows, C classes. Rows keep the dataset's canonical order, by (id, label).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ts4s_core.errors import NonFiniteError

#: Fixed-width bytes; numpy orders and compares them as the 16 bytes they are.
ID_DTYPE = np.dtype("S16")
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """The answers of one model.

    Attributes:
        ids: (N,) S16, the first 16 bytes of each text's sha256.
        truth: (N, C) bool, one True a row unless ``multi_label``.
        logits: (N, C) float32.
        multi_label: a row has any number of labels, each class is a yes or no of its own.
    """

    ids: npt.NDArray[np.bytes_]
    truth: Bools
    logits: npt.NDArray[np.float32]
    multi_label: bool = False

    def __post_init__(self) -> None:
        finite = np.asarray(np.isfinite(self.logits).all(axis=1))
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise NonFiniteError(
                f"prediction failed for row {bytes(self.ids[row]).hex()}: expected finite logits, got {self.logits[row][:4]} "
                f"({int((~finite).sum())} of {len(finite)} rows). Train again with a lower train.learning_rate"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def probabilities(self) -> Floats:
        """(N, C): softmax over the classes, or a sigmoid for each."""
        wide = self.logits.astype(np.float64)
        if self.multi_label:
            return np.asarray(np.exp(-np.logaddexp(0.0, -wide)))
        return np.asarray(np.exp(_log_softmax(wide)))

    @cached_property
    def predicted(self) -> Bools:
        """(N, C) bool: the likeliest class, or every class of probability 0.5 and more."""
        if self.multi_label:
            return np.asarray(self.logits >= 0)
        chosen = np.zeros(self.logits.shape, dtype=np.bool_)
        chosen[np.arange(len(self)), self.logits.argmax(axis=1)] = True
        return chosen

    @cached_property
    def losses(self) -> Floats:
        """(N,): negative log-likelihood of the row in nats; multi-label: its mean over the classes."""
        wide = self.logits.astype(np.float64)
        if self.multi_label:
            return np.asarray((np.logaddexp(0.0, wide) - wide * self.truth).mean(axis=1))
        return np.asarray(-(_log_softmax(wide) * self.truth).sum(axis=1))

    @cached_property
    def correct(self) -> Bools:
        """(N,): the predicted labels are exactly the true ones."""
        return np.asarray((self.predicted == self.truth).all(axis=1))

    @cached_property
    def confidence(self) -> Floats:
        """(N,): probability of what was predicted; multi-label: of the row's least certain class."""
        if self.multi_label:
            return np.asarray(np.maximum(self.probabilities, 1 - self.probabilities).min(axis=1))
        return np.asarray(self.probabilities.max(axis=1))

    def only(self, rows: Bools | slice) -> Predictions:
        """Some rows: a mask (N,) or a slice."""
        return Predictions(self.ids[rows], self.truth[rows], self.logits[rows], self.multi_label)


def class_indices(mask: Bools) -> npt.NDArray[np.int64]:
    """(N,): the one class of each row of a single-label mask (N, C)."""
    return np.asarray(mask.argmax(axis=1))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
