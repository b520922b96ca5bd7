"""The jobs of the driver program: each calls the core function of a step, on Spark or, with spark.master none, without it.

A job is JSON: ``{"job": NAME, "settings": Settings.plain(), ...}``; so is its result. Secrets are in neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.errors import SettingsError
from ts4s_core.progress import Progress
from ts4s_core.settings import Settings
from ts4s_core.spark.session import SessionPlan, Sessions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Job = Mapping[str, Any]
Result = dict[str, Any]


@dataclass
class Place:
    """Where jobs run: one program's settings, temporary folder and (at most one) Spark session."""

    settings: Settings
    temporary: Path
    sessions: Sessions = field(default_factory=Sessions)

    @property
    def has_spark(self) -> bool:
        """Whether jobs run on Spark."""
        return self.settings.spark.master != "none"

    def session(self) -> SparkSession:
        """The session, started at the first call.

        Raises:
            SettingsError: if ``spark.conf`` contradicts what training relies on.
            SparkError: if Spark does not start.
        """
        plan = SessionPlan(self.settings.spark, self.settings.train.threads_per_worker, self.temporary)
        return self.sessions.get(plan)


def run_job(job: Job, *, place: Place, progress: Progress) -> Result:
    """Run one job.

    Raises:
        SettingsError: if there is no such job.
        Ts4sError: what the step raises.
    """
    run = JOBS.get(str(job.get("job")))
    if run is None:
        raise SettingsError(f"job {job.get('job')!r} is not one of {', '.join(sorted(JOBS))}")
    return run(job, place, progress)


def _warm_up(_job: Job, place: Place, _progress: Progress) -> Result:
    """Start what the next jobs need, while the parent does other work."""
    if place.has_spark:
        place.session()
    return {}


def _echo(job: Job, place: Place, progress: Progress) -> Result:
    """Send ``items`` through the tasks of a Spark job and back: shows that master, Python and the shipped code work."""
    items = [str(item) for item in job.get("items", [])]
    progress("echo", {"item": 0, "items": len(items)})
    if place.has_spark and items:
        context = place.session().sparkContext
        items = context.parallelize(items, len(items)).map(_folded).collect()
    return {"items": items}


def _folded(text: str) -> str:
    errors = importlib.import_module("ts4s_core.errors")  # the executor's own copy
    return str(errors.one_line(text))


JOBS: dict[str, Callable[[Job, Place, Progress], Result]] = {"warm-up": _warm_up, "echo": _echo}
