"""From the gate's decision to the registry; without Prefect."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ts4s_core.artifacts.registry import CHAMPION, Entry, History, Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ConflictError
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.evaluation.steps.evaluation import read_decision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """The registry's entry about a version.

    Attributes:
        promoted: whether it became the champion.
        why: the reason.
        new: whether the entry was made now.
    """

    promoted: bool
    why: str
    new: bool


def recorded_decision(store: ArtifactStore, trained: ArtifactRef) -> Entry | None:
    """The registry's first entry about a version: the decision of its own evaluation, whatever was changed by hand later."""
    return Registry(store).history(trained.name).first_decision_on(trained.version)


def publish_decision(store: ArtifactStore, *, trained: str, report: str, approved: bool, reason: str = "") -> Published:
    """Record a decision once; a version that has its entry already is left as it is.

    ``reason`` is that of the person who was asked. The caller holds the model's lease. A champion that was changed by hand
    since the evaluation stays: the decision is written against the history that it was made on, and made anew if that grew.

    Raises:
        LeaseHeldError: if the model's lease was lost.
    """
    ref, report_ref = ArtifactRef.parse(trained), ArtifactRef.parse(report)
    decision, metrics = read_decision(store, report_ref), ReportFacts.of(store.manifest(report_ref)).metrics
    registry = Registry(store)
    while True:
        history = registry.history(ref.name)
        before = history.first_decision_on(ref.version)
        if before is not None:
            return Published(before.action == "promote", before.why, new=False)
        promote, why = _final_decision(decision, history, ref, approved=approved, reason=reason)
        try:
            registry.decide(ref.name, to=ref.version, why=why, metrics=metrics, promoted=promote, expected=history.number)
        except ConflictError as exc:
            log.info("%s", exc)
            continue
        return Published(promote, why, new=True)


def _final_decision(decision: Decision, history: History, ref: ArtifactRef, *, approved: bool, reason: str) -> tuple[bool, str]:
    """Whether to promote, given the history since the gate's decision, and why."""
    champion = history.aliases.get(CHAMPION)
    now = None if champion is None else str(ArtifactRef(ref.kind, ref.name, champion))
    if decision.promote and now != decision.champion:
        return False, f"{decision.why}; but the champion was changed to {now} meanwhile: run again to compare with it"
    if decision.promote and not approved:
        return False, f"{decision.why}; but it was not approved{f': {reason}' if reason else ''}"
    if decision.promote and reason:
        return True, f"{decision.why}; approved: {reason}"
    return decision.promote, decision.why
