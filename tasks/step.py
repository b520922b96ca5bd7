"""When a step may be tried again: where the network or the store failed, never where the input or the model is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from ts4s_core.errors import ConflictError, IntegrityError, StoreError

RETRIES = 2
DELAYS_S = [5.0, 30.0]
P = ParamSpec("P")
R = TypeVar("R")


def may_help(_task: Any, _task_run: Any, state: Any) -> bool:
    """Whether a retry can help: the store failed, and not because of what it holds."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreError) and not isinstance(error, ConflictError | IntegrityError)


def step(name: str, *, retries: int = RETRIES) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The decorator of a step's task. Prefect keeps nothing of it, because the store has the record of what was done."""
    return task(
        name=name,
        persist_result=False,
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=DELAYS_S[:retries],
        retry_condition_fn=may_help,
    )
