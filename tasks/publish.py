"""Task: the gate's decision in the registry."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import get_run_logger
from prefect.events import emit_event

from tasks.current_run import current_run
from tasks.prefect_ui.show import decision_page, show_page
from tasks.step import step
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.steps.evaluation import read_decision
from ts4s_core.pipeline.publication import publish_decision
from ts4s_core.pipeline.run import Run

#: What an automation can wait for.
PROMOTED_EVENT = "ts4s.model.promoted"


@step("publish")
def publish(trained: str, report: str, approved: bool, reason: str = "") -> dict[str, Any]:
    """Record what the gate decided on a trained version, and promote it if it is the better one.

    Args:
        trained: reference of the trained artifact.
        report: reference of the report that holds the decision.
        approved: False if a person was asked and did not approve.
        reason: the person's reason.

    Returns:
        ``promoted``, ``why``, and ``new``: whether an entry was made now.
    """
    run = current_run(Run)
    published = publish_decision(run.store, trained=trained, report=report, approved=approved, reason=reason)
    text = f"{'Promoted' if published.promoted else 'Not promoted'}: {published.why}"
    page = decision_page(text, read_decision(run.store, ArtifactRef.parse(report)))
    show_page("decision", run.settings.name, page, description=trained)
    get_run_logger().info("%s: %s", trained, text)
    if published.new and published.promoted:
        ref = ArtifactRef.parse(trained)
        emit_event(
            PROMOTED_EVENT,
            resource={"prefect.resource.id": f"ts4s.model.{ref.name}", "prefect.resource.name": ref.name},
            payload={"model": ref.name, "version": ref.version, "why": published.why},
        )
    return asdict(published)
