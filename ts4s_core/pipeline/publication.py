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
    """What the registry says of a version.

    Attributes:
        promoted: whether it became the champion.
        why: what was decided, and why.
        new: whether the entry was made now.
    """

    promoted: bool
    why: str
    new: bool


def decided(store: ArtifactStore, trained: ArtifactRef) -> Entry | None:
    """What the registry says of a version's own evaluation: its first entry, whatever was decided by hand later."""
    return Registry(store).history(trained.name).first_about(trained.version)


def publish_decision(store: ArtifactStore, *, trained: str, report: str, approved: bool, said: str = "") -> Published:
    """Record a decision once; a version that has its entry already is left as it is.

    ``said`` is the reason of the person who was asked. The caller holds the model's lease. A champion that was changed by hand
    since the evaluation stays: the decision is written against the history that it was made on, and made anew if that grew.

    Raises:
        LeaseHeldError: if the model's lease was lost.
    """
    ref, report_ref = ArtifactRef.parse(trained), ArtifactRef.parse(report)
    decision, metrics = read_decision(store, report_ref), ReportFacts.of(store.manifest(report_ref)).metrics
    registry = Registry(store)
    while True:
        history = registry.history(ref.name)
        before = history.first_about(ref.version)
        if before is not None:
            return Published(before.action == "promote", before.why, new=False)
        promote, why = _now(decision, history, ref, approved=approved, said=said)
        try:
            registry.decide(ref.name, to=ref.version, why=why, metrics=metrics, promoted=promote, expected=history.number)
        except ConflictError as exc:
            log.info("%s", exc)
            continue
        return Published(promote, why, new=True)


def _now(decision: Decision, history: History, ref: ArtifactRef, *, approved: bool, said: str) -> tuple[bool, str]:
    """Whether the gate's decision still stands after what the history says, and why."""
    champion = history.aliases.get(CHAMPION)
    now = None if champion is None else str(ArtifactRef(ref.kind, ref.name, champion))
    if decision.promote and now != decision.champion:
        return False, f"{decision.why}; but the champion was changed to {now} meanwhile: run again to compare with it"
    if decision.promote and not approved:
        return False, f"{decision.why}; but it was not approved{f': {said}' if said else ''}"
    if decision.promote and said:
        return True, f"{decision.why}; approved: {said}"
    return decision.promote, decision.why
