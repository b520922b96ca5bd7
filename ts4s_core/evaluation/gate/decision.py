"""The promotion gate: whether a candidate becomes the champion, decided from figures alone.

The rules, in order:

1. A leak, a changed label set or drift (see :class:`Evidence`) keeps the champion, with the reason.
2. Without a champion the candidate must beat the best constant answer (the majority class, or for a language model the
   frequencies of tokens) in ``evaluate.metric``.
3. Else both are compared on the same test rows, without the rows that either was trained on. The candidate is promoted if its
   gain is at least ``evaluate.min_improvement`` and the lower end of the gain's paired bootstrap 95 % interval is above 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.errors import IntegrityError, listed
from ts4s_core.evaluation.figures.paired_gain import Gain
from ts4s_core.task_kinds.registry import METRICS


@dataclass(frozen=True)
class Decision:
    """The decision of the gate.

    Attributes:
        promote: whether the candidate is to become the champion.
        why: one sentence for the registry's history.
        champion: reference of the version it was compared with, if any; a promotion holds only while that is the champion.
        figures: everything the decision came from, as JSON values.
    """

    promote: bool
    why: str
    champion: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The decision as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`to_json` wrote.

        Raises:
            IntegrityError: if the record is not a decision.
        """
        try:
            decision = cls(**record)
        except TypeError as exc:
            raise IntegrityError(
                f"the gate's decision cannot be read: expected promote, why, champion and figures, got {exc}"
            ) from exc
        if not isinstance(decision.promote, bool) or not isinstance(decision.why, str):
            raise IntegrityError(f"the gate's decision cannot be read: expected promote true or false, got {decision.promote!r}")
        return decision


@dataclass(frozen=True)
class Evidence:
    """The figures that a decision is made from.

    Attributes:
        metric: ``accuracy``, ``macro_f1`` or ``loss``; ``bits_per_byte`` for a language model.
        candidate: the candidate's metric on its whole test side.
        baseline: the metric of the best constant answer on the same rows.
        gain: the paired comparison with the champion; None without a champion, or where nothing can be compared.
        leaked: texts of the candidate's test side that its own training side holds too.
        labels: label names of the candidate.
        champion_labels: label names of the champion; None without one.
        drift: reasons of drift between the champion's training texts and the candidate's.
        drift_figures: the figures behind them, see :func:`ts4s_core.evaluation.figures.drift.drift`.
        removed: test rows that were left out because either model was trained on them.
        notes: what a reader should know besides, e.g. that the champion's data are gone.
    """

    metric: str
    candidate: float
    baseline: float
    gain: Gain | None = None
    leaked: int = 0
    labels: Sequence[str] = ()
    champion_labels: Sequence[str] | None = None
    drift: Sequence[str] = ()
    drift_figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: int = 0
    notes: Sequence[str] = ()


def decide(evidence: Evidence, *, champion: str | None, min_improvement: float) -> Decision:
    """Apply the rules of this module.

    Args:
        evidence: the figures.
        champion: reference of the champion, or None if the candidate is the model's first version.
        min_improvement: the gain that a promotion needs.
    """
    figures = _figures(evidence, min_improvement=min_improvement)
    stops = stopping_reasons(evidence)
    if stops:
        promote, why = False, "; ".join(stops)
    elif champion is None:
        promote, why = _against_majority(evidence)
    else:
        promote, why = _against_champion(evidence, champion, min_improvement=min_improvement)
    return Decision(promote, "; ".join([why, *evidence.notes]), champion, figures)


def _figures(evidence: Evidence, *, min_improvement: float) -> dict[str, Any]:
    """The evidence as JSON values; of the label names, which can be many, only how many changed."""
    names = dataclasses.asdict(evidence)
    ours, theirs = names.pop("labels"), names.pop("champion_labels")
    changed = None if theirs is None else len(set(ours) ^ set(theirs))
    # Through JSON, so that a decision is the same before and after it was stored.
    figures: dict[str, Any] = json.loads(json.dumps({**names, "changed_labels": changed, "min_improvement": min_improvement}))
    return figures


def stopping_reasons(evidence: Evidence) -> list[str]:
    """Why there can be no promotion whatever the metric says."""
    reasons = []
    if evidence.leaked:
        reasons.append(f"leak: {evidence.leaked} text(s) of the test side are in the training side too")
    if evidence.champion_labels is not None and set(evidence.champion_labels) != set(evidence.labels):
        added = sorted(set(evidence.labels) - set(evidence.champion_labels))
        gone = sorted(set(evidence.champion_labels) - set(evidence.labels))
        changes = [f"{what} {listed(names)}" for what, names in (("new:", added), ("gone:", gone)) if names]
        reasons.append(
            f"changed label set ({'; '.join(changes)}): the champion cannot be compared, promote by hand if it is meant"
        )
    return [*reasons, *evidence.drift]


def _against_majority(evidence: Evidence) -> tuple[bool, str]:
    metric, found, constant = METRICS[evidence.metric], evidence.candidate, evidence.baseline
    better = found > constant if metric.higher_is_better else found < constant
    verb = "beats" if better else "does not beat"
    return better, f"first version: {metric.shown} {found:.4f} {verb} {metric.constant} ({constant:.4f})"


def _against_champion(evidence: Evidence, champion: str, *, min_improvement: float) -> tuple[bool, str]:
    gain, name = evidence.gain, METRICS[evidence.metric].shown
    if gain is None:
        return False, f"no test row that neither this version nor {champion} was trained on: nothing to compare"
    shown = (
        f"gain of {gain.gain:+.4f} in {name} over {champion} ({gain.champion:.4f} to {gain.candidate:.4f} on {gain.rows} rows, "
        f"95 % interval {gain.low:+.4f} to {gain.high:+.4f})"
    )
    if gain.gain < min_improvement:
        return False, f"{shown} is below evaluate.min_improvement {min_improvement:g}"
    if gain.low <= 0:
        return False, f"{shown} may be chance: the interval's lower end is not above 0"
    return True, shown
