"""What a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import TypeAdapter, ValidationError

from ts4s_core.artifacts.facts import problems_of
from ts4s_core.errors import IntegrityError, listed
from ts4s_core.models.weights import Array
from ts4s_core.training.facts import StrategyFacts
from ts4s_core.training.step_rows import StepRow

WEIGHTS_FILE, BEST_FILE, STATE_FILE = "weights.safetensors", "best.safetensors", "state.json"


@dataclass
class Progressed:
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

    def copy(self) -> Progressed:
        """A copy that training does not change."""
        return Progressed(self.step, self.best_loss, self.best_step, self.worse, list(self.metrics), self.strategy)

    def to_json(self) -> str:
        """The state as it is stored."""
        return json.dumps(_PROGRESSED.dump_python(self, mode="json", exclude_none=True), allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, of: str) -> Progressed:
        """What :meth:`to_json` wrote.

        Raises:
            IntegrityError: if it did not, naming the checkpoint ``of`` which it is.
        """
        try:
            return _PROGRESSED.validate_json(text)
        except ValidationError as exc:
            raise IntegrityError(f"Checkpoint {of} is damaged: its {STATE_FILE} has {listed(problems_of(exc))}") from exc


_PROGRESSED: TypeAdapter[Progressed] = TypeAdapter(Progressed)


@dataclass(frozen=True)
class Snapshot:
    """A rank's copy of its state; weights on rank 0 alone.

    Attributes:
        moments: by tensor name ``exp_avg/<bucket>/<start>/<stop>``.
        weights: trainable weights by stored name.
        best: the best weights, where early stopping keeps them.
    """

    progressed: Progressed
    moments: dict[str, torch.Tensor]
    weights: dict[str, Array] | None
    best: dict[str, Array] | None


def named_moments(slices: list[tuple[int, int]], moments: Sequence[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """A copy of a rank's moments, named by the elements that they are."""
    named = {}
    for bucket, ((start, stop), pair) in enumerate(zip(slices, moments, strict=True)):
        for kind, tensor in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
            if stop > start:
                named[f"{kind}/{bucket}/{start}/{stop}"] = tensor.clone()
    return named
