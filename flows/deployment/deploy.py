"""``ts4s deploy``: work pool, queues, deployments and automations on any Prefect server, made or brought up to date.

What is as it should be is left alone, so that a second call changes nothing. prefect must find its API in the environment.
"""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import Any

from prefect import Flow
from prefect.blocks.fields import SecretDict
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr, ValidationError

from flows.deployment.automations import NOTIFY_BLOCK, automations_of
from flows.deployment.specs import TAG, TRAINING_QUEUE, WORKER_ENVIRONMENT, Deployment, DeployOptions, deployments_of
from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings

CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"
Changes = dict[str, str]
_HEADERS = {"Content-Type": "application/json"}


def deploy(settings: Settings, options: DeployOptions) -> dict[str, Any]:
    """Make or update everything that runs of the flows need.

    Returns:
        ``changed``: whether anything was, and ``objects``: name to ``created``, ``updated`` or ``unchanged``.

    Raises:
        SettingsError: if the schedule is not valid.
    """
    wanted = deployments_of(settings, options)
    schedules = [schedule_of(deployment) for deployment in wanted]
    changes: Changes = {}
    with get_client(sync_client=True) as client:
        changes[f"work pool {options.pool}"] = _pool(client, options.pool)
        changes[f"queue {options.pool}/{TRAINING_QUEUE}"] = _queue(client, options)
        for deployment, schedule in zip(wanted, schedules, strict=True):
            change = _deployment(client, deployment, schedule=schedule, pool=options.pool)
            changes[f"deployment {deployment.full_name}"] = change
        changes |= automate(client, options.notify_url)
    return {"changed": any(change != UNCHANGED for change in changes.values()), "pool": options.pool, "objects": changes}


def automate(client: SyncPrefectClient, notify_url: str | None) -> Changes:
    """Make or update the automations, and the block that holds the address to notify."""
    changes: Changes = {}
    block = None
    if notify_url:
        changes[f"block webhook/{NOTIFY_BLOCK}"], block = _notify_block(client, notify_url)
    for automation in automations_of(block):
        changes[f"automation {automation.name}"] = _automation(client, automation)
    return changes


def flow_of(deployment: Deployment) -> Flow[..., Any]:
    """The flow of a deployment."""
    module, _, name = deployment.entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return flow


def schedule_of(deployment: Deployment) -> CronSchedule | IntervalSchedule | None:
    """The schedule of a deployment.

    Raises:
        SettingsError: if it is not valid.
    """
    cron, timezone = deployment.cron or ("", "")
    try:
        if cron:
            return CronSchedule(cron=cron, timezone=timezone)
        return IntervalSchedule(interval=timedelta(seconds=deployment.every_s)) if deployment.every_s else None
    except ValidationError as exc:
        raise SettingsError(
            f"--cron {cron!r} is not valid: {exc.errors()[0]['msg']}. Give five fields such as '0 2 * * *'"
        ) from exc


def _pool(client: SyncPrefectClient, name: str) -> str:
    """An existing pool is taken as it is: it may be of containers or Kubernetes jobs."""
    try:
        client.read_work_pool(name)
        return UNCHANGED
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
        except ObjectAlreadyExists:
            return UNCHANGED
        return CREATED


def _queue(client: SyncPrefectClient, options: DeployOptions) -> str:
    """Trainings have a queue of their own, so that what looks and predicts never waits behind them."""
    queues = client.read_work_queues(work_pool_name=options.pool)
    found = next((queue for queue in queues if queue.name == TRAINING_QUEUE), None)
    if found is None:
        client.create_work_queue(TRAINING_QUEUE, work_pool_name=options.pool, concurrency_limit=options.limit)
        return CREATED
    if found.concurrency_limit == options.limit:
        return UNCHANGED
    client.update_work_queue(found.id, concurrency_limit=options.limit)
    return UPDATED


def _deployment(
    client: SyncPrefectClient, deployment: Deployment, *, schedule: CronSchedule | IntervalSchedule | None, pool: str
) -> str:
    flow = flow_of(deployment)
    schedules = [] if schedule is None else [DeploymentScheduleCreate(schedule=schedule, active=True)]
    wanted: dict[str, Any] = {
        "entrypoint": deployment.entrypoint,
        "path": None,
        "description": deployment.description,
        "tags": [TAG],
        "parameters": deployment.parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True, mode="json"),
        "enforce_parameter_schema": True,
        "work_pool_name": pool,
        "work_queue_name": deployment.queue,
        "job_variables": {"env": WORKER_ENVIRONMENT},
        "pull_steps": [],
    }
    try:
        found = client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        found = None
    if found is not None and _same(found, wanted, schedule):
        return UNCHANGED
    # Serving pauses what it served at its end; what somebody paused by hand has a pool.
    if found is not None and found.work_pool_name is None:
        wanted["paused"] = False
    client.create_deployment(client.create_flow_from_name(deployment.flow), deployment.name, schedules=schedules, **wanted)
    return CREATED if found is None else UPDATED


def _same(found: Any, wanted: dict[str, Any], schedule: CronSchedule | IntervalSchedule | None) -> bool:
    """A schedule that somebody paused by hand stays paused as long as it is the same schedule."""
    for name, value in wanted.items():
        if (getattr(found, name) or None) != (value or None):
            return False
    have = [_timing(entry.schedule) for entry in found.schedules]
    return have == ([] if schedule is None else [_timing(schedule)])


def _timing(schedule: Any) -> tuple[Any, ...]:
    """What tells schedules apart; an interval's anchor is the time it was made."""
    if isinstance(schedule, CronSchedule):
        return (schedule.cron, schedule.timezone)
    return (getattr(schedule, "interval", None),)


def _notify_block(client: SyncPrefectClient, url: str) -> tuple[str, Any]:
    try:
        document = client.read_block_document_by_name(NOTIFY_BLOCK, Webhook.get_block_type_slug(), include_secrets=True)
        if document.data.get("url") == url:
            return UNCHANGED, document.id
        change = UPDATED
    except ObjectNotFound:
        change = CREATED
    return change, Webhook(url=SecretStr(url), headers=SecretDict(_HEADERS)).save(NOTIFY_BLOCK, overwrite=True)


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    found = next((automation for automation in client.read_automations() if automation.name == wanted.name), None)
    if found is None:
        client.create_automation(wanted)
        return CREATED
    names = ("description", "trigger", "actions")
    if all(_plain(getattr(found, name)) == _plain(getattr(wanted, name)) for name in names):
        return UNCHANGED
    client.update_automation(found.id, wanted)
    return UPDATED


def _plain(value: Any) -> Any:
    """A trigger or an action as values that compare: sets in order, without the identity that the server gave it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "model_dump"):
        return _sorted(value.model_dump(mode="json", exclude={"id"}))
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=repr)
    return value
