"""The automations beside the deployments: crashed runs are marked, failures and promotions are notified.

They look at runs with the tag ``ts4s`` alone: other runs of the same server may send no heartbeats, or seldom.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.deployment.specs import HEARTBEAT_S, TAG
from tasks.publish import PROMOTED_EVENT

#: Three heartbeats; with the server's own rhythm of 5 s a run that died is marked well within two minutes.
SILENCE_S = 3 * HEARTBEAT_S
#: From the worker's taking a run to the flow's first sign; a busy machine takes a minute to import everything.
LONGEST_START_S = 300
NOTIFY_BLOCK = "ts4s-notify"
_PREFIX = "prefect.flow-run."
_LATER = frozenset(f"{_PREFIX}{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Skipped", "Unchanged"))
_WAITS = frozenset(f"{_PREFIX}{state}" for state in ("Scheduled", "AwaitingRetry", "Late", "Paused", "Suspended"))
_FAILED_BODY = (
    '{"text": {{ ("ts4s: run " ~ flow_run.name ~ " of " ~ flow.name ~ " is " ~ flow_run.state.name ~ ": "'
    ' ~ flow_run.state.message) | tojson }}, "event": "failure", "flow": {{ flow.name | tojson }},'
    ' "run": {{ flow_run.name | tojson }}, "run_id": {{ flow_run.id | string | tojson }}}'
)
_PROMOTED_BODY = (
    '{"text": {{ ("ts4s: " ~ event.payload.model ~ " " ~ event.payload.version ~ " was promoted: " ~ event.payload.why)'
    " | tojson }},"
    ' "event": "promotion", "model": {{ event.payload.model | tojson }}, "version": {{ event.payload.version | tojson }}}'
)


def automations_of(notify_block: UUID | None) -> list[AutomationCore]:
    """Every automation; those that notify only if there is a block with the address."""
    # Not forced: the server then leaves alone what has ended. A short run's heartbeat may come after the news of its end (seen).
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED,
        name="Crashed",
        message=f"Crashed: no heartbeat for {SILENCE_S} s: the flow's process or its host is gone. Retry this run, it resumes",
    )
    lost = ChangeFlowRunState(
        state=StateType.CRASHED,
        name="Crashed",
        message=f"Crashed: it did not begin within {LONGEST_START_S} s after a worker had taken it. Retry this run",
    )
    found = [
        _automation(
            "ts4s: mark crashed runs",
            f"A run that sent no heartbeat for {SILENCE_S} s is crashed.",
            trigger=_absence(after={f"{_PREFIX}heartbeat"}, expect={f"{_PREFIX}heartbeat", *_WAITS, *_LATER}, within_s=SILENCE_S),
            actions=[crashed],
        ),
        _automation(
            "ts4s: mark runs that never began",
            "A run whose worker died before it began is crashed.",
            trigger=_absence(
                after={f"{_PREFIX}Pending"},
                expect={f"{_PREFIX}heartbeat", f"{_PREFIX}Running", *_WAITS, *_LATER},
                within_s=LONGEST_START_S,
            ),
            actions=[lost],
        ),
    ]
    if notify_block is not None:
        failures = EventTrigger(
            posture=Posture.Reactive,
            expect={f"{_PREFIX}Failed", f"{_PREFIX}Crashed"},
            match=ResourceSpecification({"prefect.resource.id": [f"{_PREFIX}*"]}),
            match_related=_tagged(),
            for_each={"prefect.resource.id"},
        )
        promotions = EventTrigger(
            posture=Posture.Reactive,
            expect={PROMOTED_EVENT},
            match=ResourceSpecification({"prefect.resource.id": ["ts4s.model.*"]}),
        )
        found += [
            _automation(
                "ts4s: tell of failures",
                "A webhook is called for every run that failed or crashed.",
                trigger=failures,
                actions=[CallWebhook(block_document_id=notify_block, payload=_FAILED_BODY)],
            ),
            _automation(
                "ts4s: tell of promotions",
                "A webhook is called for every version that became champion.",
                trigger=promotions,
                actions=[CallWebhook(block_document_id=notify_block, payload=_PROMOTED_BODY)],
            ),
        ]
    return found


def _automation(name: str, description: str, *, trigger: EventTrigger, actions: list[Any]) -> AutomationCore:
    return AutomationCore(name=name, description=description, enabled=True, trigger=trigger, actions=actions)


def _absence(*, after: set[str], expect: set[str], within_s: int) -> EventTrigger:
    return EventTrigger(
        posture=Posture.Proactive,
        after=after,
        expect=expect,
        match=ResourceSpecification({"prefect.resource.id": [f"{_PREFIX}*"]}),
        match_related=_tagged(),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=within_s),
    )


def _tagged() -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{TAG}"]})
