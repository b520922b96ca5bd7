"""Task: the gate's decision in the registry."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from tasks.publication import publish_decision
from tasks.retries import step
from tasks.run import current_run
from tasks.show import artifact_key


@step("publish")
def publish(trained: str, report: str, approved: bool) -> dict[str, Any]:
    """Record what the gate decided on a trained version, and promote it if it is the better one.

    Args:
        trained: reference of the trained artifact.
        report: reference of the report that holds the decision.
        approved: False if a person was asked and did not approve.

    Returns:
        ``promoted``, ``why``, and ``new``: whether an entry was made now.
    """
    run = current_run()
    published = publish_decision(run.store, trained=trained, report=report, approved=approved)
    text = f"{'Promoted' if published['promoted'] else 'Not promoted'}: {published['why']}"
    create_markdown_artifact(text, key=artifact_key("decision", run.settings.name), description=trained)
    get_run_logger().info("%s: %s", trained, text)
    return published
