"""From the gate's decision to the registry; without Prefect."""

from __future__ import annotations

from typing import Any

from ts4s_core.artifacts.registry import Entry, Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.steps.evaluation import read_decision


def decided(store: ArtifactStore, trained: ArtifactRef) -> Entry | None:
    """What the registry says of a version's own evaluation: its first entry, whatever was decided by hand later."""
    return next((entry for entry in Registry(store).entries(trained.name) if entry.to == trained.version), None)


def publish_decision(store: ArtifactStore, *, trained: str, report: str, approved: bool, said: str = "") -> dict[str, Any]:
    """Record a decision once; a version that has its entry already is left as it is.

    ``said`` is the reason of the person who was asked. The caller holds the model's lease. A champion that was changed by hand
    since the evaluation stays.
    """
    ref, report_ref = ArtifactRef.parse(trained), ArtifactRef.parse(report)
    before = decided(store, ref)
    if before is not None:
        return {"promoted": before.action == "promote", "why": before.why, "new": False}
    registry, decision = Registry(store), read_decision(store, report_ref)
    champion = registry.alias(ref.name)
    now = None if champion is None else str(ArtifactRef(ref.kind, ref.name, champion))
    promote, why = decision.promote, decision.why
    if promote and now != decision.champion:
        promote, why = False, f"{why}; but the champion was changed to {now} meanwhile: run again to compare with it"
    if promote and not approved:
        promote, why = False, f"{why}; but it was not approved{f': {said}' if said else ''}"
    elif promote and said:
        why = f"{why}; approved: {said}"
    metrics = store.manifest(report_ref).facts["metrics"]
    registry.decide(ref.name, to=ref.version, why=why, metrics=metrics, promoted=promote)
    return {"promoted": promote, "why": why, "new": True}
