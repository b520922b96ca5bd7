"""A person's approval before a promotion: the run pauses in Prefect's UI, where Resume shows a form."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.steps.evaluation import read_decision
from ts4s_core.pipeline.publication import recorded_decision
from ts4s_core.pipeline.run import Run

#: A run fails if nobody answers within this time; the next run reuses its steps and asks again.
APPROVAL_TIMEOUT_S = 24 * 3600
POLL_S = 2


class Approval(RunInput):
    """The fields of the form."""

    approve: bool = Field(True, description="promote this version; false leaves the champion as it is")
    reason: str = Field("", description="for the registry's history")


def ask_approval(run: Run, trained: str, report: str) -> tuple[bool, str]:
    """Ask a person, if the settings require it and the gate would promote.

    Returns:
        whether the version may be promoted, and the person's reason.
    """
    if not run.settings.evaluate.require_approval:
        return True, ""
    decision = read_decision(run.store, ArtifactRef.parse(report))
    if not decision.promote or recorded_decision(run.store, ArtifactRef.parse(trained)) is not None:
        return True, ""
    get_run_logger().info("waiting for approval: resume this run to promote %s", decision.why)
    about = f"Promote `{trained}`? The gate says: {decision.why}. The report is among this run's artifacts."
    answer = pause_flow_run(
        wait_for_input=Approval.with_initial_data(description=about, approve=True),
        timeout=APPROVAL_TIMEOUT_S,
        poll_interval=POLL_S,
        key="approval",
    )
    get_run_logger().info("%s: %s", "ask_approval" if answer.approve else "refused", answer.reason or "no reason answer")
    return answer.approve, answer.reason
