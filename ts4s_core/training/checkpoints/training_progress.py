"""The progress of a run, as a checkpoint holds it. No torch here: the driver reads the history of a run that it resumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ts4s_core.artifacts.facts import problems_of
from ts4s_core.errors import IntegrityError, listed
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step_rows import StepRow

STATE_FILE = "state.json"


@dataclass
class TrainingProgress:
    """Where a run stands after ``step`` steps, beside weights and moments.

    Attributes:
        step: steps that are done.
        best_loss: best validation loss so far.
        best_step: when it was reached.
        worse: validations since then.
        metrics: a row a step.
        strategy: what the strategy says of the run, as of its last join.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    metrics: list[StepRow] = field(default_factory=list)
    strategy: StrategyFacts = field(default_factory=StrategyFacts)

    def copy(self) -> TrainingProgress:
        """A copy that training does not change."""
        return TrainingProgress(self.step, self.best_loss, self.best_step, self.worse, list(self.metrics), self.strategy)

    def to_json(self) -> bytes:
        """The state as it is stored; by one call of pydantic's, since a long history would keep training waiting otherwise."""
        return _PROGRESSED.dump_json(self, exclude_none=True) + b"\n"

    @classmethod
    def of(cls, checkpoint: Path) -> TrainingProgress:
        """What :meth:`to_json` wrote, from a checkpoint's local, verified folder.

        Raises:
            IntegrityError: if it did not.
        """
        try:
            return _PROGRESSED.validate_json((checkpoint / STATE_FILE).read_bytes())
        except ValidationError as exc:
            problems = listed(problems_of(exc))
            raise IntegrityError(f"Checkpoint {checkpoint.name} is damaged: its {STATE_FILE} has {problems}") from exc


_PROGRESSED: TypeAdapter[TrainingProgress] = TypeAdapter(TrainingProgress)
