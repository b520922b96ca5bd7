"""How many tasks of a Spark job are done, while it runs."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVERY_S = 1.0
_LOG = logging.getLogger(__name__)


@contextmanager
def watching(context: Any, tell: Callable[[int], None] | None) -> Iterator[None]:
    """Tell, once a second, how many tasks of the jobs that are run inside are done.

    Args:
        context: the SparkContext.
        tell: called in a thread of its own; None: nobody asks.
    """
    if tell is None:
        yield
        return
    group, ended = f"ts4s-{uuid.uuid4().hex}", threading.Event()
    context.setJobGroup(group, "ts4s")
    thread = threading.Thread(target=_watch, args=(context, group, tell, ended), name="spark-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        context.setLocalProperty("spark.jobGroup.id", None)


def _watch(context: Any, group: str, tell: Callable[[int], None], ended: threading.Event) -> None:
    told = 0
    while not ended.wait(EVERY_S):
        try:
            done = _done(context.statusTracker(), group)
        except Exception as exc:  # a JVM that went away: the job itself says so
            _LOG.debug("no news of the Spark job: %s", exc)
            return
        if done > told:
            told = done
            tell(done)


def _done(tracker: Any, group: str) -> int:
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    return sum(stage.numCompletedTasks for stage in stages if stage is not None)
