"""Collects what workers report during training: rows for ``metrics.csv``, and progress events."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Sequence

from ts4s_core.progress import Progress
from ts4s_core.training.control.messages import Progressing, Result, Started, Stepped, Validated, WorkerResult
from ts4s_core.training.step_rows import StepRow

COLUMNS = (
    "step",
    "epoch",
    "loss",
    "accuracy",
    "validation_loss",
    "learning_rate",
    "grad_norm",
    "predictions",
    "tokens",
    "padded_tokens",
    "tokens_per_s",
    "milliseconds",
    "memory",
    "memory_per_worker",
)
#: First steps of a run that its speed is not taken from: memory and kernels are not warm yet.
UNSTEADY_STEPS = 2


class Metrics:
    """Collects rank 0's rows over all attempts; a resumed attempt replaces the steps that it repeats.

    Attributes:
        steps: steps of the whole run, once it is known.
        started: when the first step of any attempt was announced, in monotonic seconds.
    """

    def __init__(self, progress: Progress) -> None:
        self.steps = 0
        self.started: float | None = None
        self.result: WorkerResult | None = None
        self._progress = progress
        self._rows: dict[int, StepRow] = {}
        self._lock = threading.Lock()

    def go_on_from(self, rows: Sequence[StepRow]) -> None:
        """Take the history of the checkpoint that the next attempt begins with; it may be longer than any message."""
        with self._lock:
            self._rows = {row.step: row for row in rows}

    def listen(self, rank: int, message: Progressing) -> None:
        """Take a message of the control channel."""
        match message:
            case Started():
                self._begin(message)
            case Stepped():
                self._add(message.rows)
            case Validated():
                self._progress("validation", {"step": message.step, "loss": message.loss})
            case Result() if rank == 0:
                self.result = message.result

    @property
    def last_step(self) -> int:
        """The last step that was reported, counted from 1."""
        with self._lock:
            return max(self._rows, default=0)

    def rows(self) -> list[StepRow]:
        """The rows so far, in order."""
        with self._lock:
            return [self._rows[step] for step in sorted(self._rows)]

    def _begin(self, message: Started) -> None:
        with self._lock:
            self.steps = message.steps
            self.started = self.started or time.monotonic()
            # What an attempt before did beyond its last checkpoint is done again.
            self._rows = {step: row for step, row in self._rows.items() if step <= message.step}

    def _add(self, rows: Sequence[StepRow]) -> None:
        with self._lock:
            self._rows |= {row.step: row for row in rows}
        last = rows[-1]
        seconds = sum(row.milliseconds for row in rows) / 1e3 / len(rows)
        self._progress(
            "train",
            {
                "step": last.step,
                "steps": self.steps,
                "loss": last.loss,
                "tokens_per_s": round(sum(row.tokens for row in rows) / max(seconds * len(rows), 1e-9)),
                "seconds_left": round((self.steps - last.step) * seconds, 1),
            },
        )


def as_csv(rows: Sequence[StepRow]) -> bytes:
    """``metrics.csv``; columns that a strategy has of its own come last."""
    text = io.StringIO()
    extra = ["staleness"] if any(row.staleness is not None for row in rows) else []
    writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    return text.getvalue().encode()


def speed(rows: Sequence[StepRow]) -> float:
    """Real tokens a second over steady steps."""
    steady = rows[UNSTEADY_STEPS:] or rows
    tokens, milliseconds = float(sum(row.tokens for row in steady)), sum(row.milliseconds for row in steady)
    return 1e3 * tokens / max(1e-6, milliseconds)


def padding_fraction(rows: Sequence[StepRow]) -> float:
    """Share of the computed tokens that are padding."""
    padded = sum(row.padded_tokens for row in rows)
    return 1 - sum(row.tokens for row in rows) / padded if padded else 0.0
