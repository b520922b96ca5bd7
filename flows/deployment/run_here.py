"""``ts4s run-deployments``: the same deployments without a work pool, run by this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from typing import Any

from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from flows.deployment.deploy import automate, flow_of, schedule_of
from flows.deployment.specs import HEARTBEAT_S, TAG, WORKER_ENVIRONMENT, Deployment, DeployOptions, deployments_of
from ts4s_core.settings import Settings


def run_here(settings: Settings, options: DeployOptions) -> dict[str, Any]:
    """Run them until SIGTERM or Ctrl-C; runs that are under way then are cancelled, and schedules paused until the next start.

    Returns:
        ``served``: names of the deployments.
    """
    wanted = deployments_of(settings, options)
    served = [_runner_deployment(deployment) for deployment in wanted]
    with get_client(sync_client=True) as client:
        automate(client, options.notify_url)
    os.environ.update(WORKER_ENVIRONMENT)
    # Prefect imports an entrypoint with the working directory before all else, safe path or not: a `flows` there is its user's.
    with tempfile.TemporaryDirectory(prefix="ts4s-runs-") as empty, contextlib.chdir(empty):
        asyncio.run(_serve(served, limit=options.limit))
    return {"served": [deployment.full_name for deployment in wanted]}


class _Runner(Runner):
    """Prefect's runner, ended by SIGTERM through its event loop: its own handler would wait for the loop that it holds up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(**options)
        self.runs_in = loop

    def handle_sigterm(self, *_args: Any, **_named: Any) -> None:
        self.runs_in.call_soon_threadsafe(lambda: asyncio.ensure_future(self.astop()))


async def _serve(served: list[RunnerDeployment], *, limit: int) -> None:
    runner = _Runner(asyncio.get_running_loop(), name=TAG, heartbeat_seconds=HEARTBEAT_S, limit=limit + 2, pause_on_shutdown=True)
    for deployment in served:
        await runner.aadd_deployment(deployment)
    await runner.start()


def _runner_deployment(deployment: Deployment) -> RunnerDeployment:
    schedule = schedule_of(deployment)
    built: Any = flow_of(deployment).to_deployment(  # a coroutine in asynchronous code alone
        deployment.name,
        schedules=[] if schedule is None else [schedule],
        parameters=deployment.parameters,
        description=deployment.description,
        tags=[TAG],
        paused=False,
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Said in so many words, or a deployment that ``ts4s deploy`` made keeps its pool, and its worker takes the runs.
    built.work_pool_name = built.work_queue_name = None
    return built  # type: ignore[no-any-return]
