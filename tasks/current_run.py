"""The run that is under way.

Tasks find it through a context variable, because nothing but references may pass through Prefect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

from ts4s_core.pipeline.run import Run, Stage, silent_stage
from ts4s_core.pipeline.training_run import TrainingRun, training_run
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings

_CURRENT: ContextVar[Run | None] = ContextVar("ts4s_run", default=None)
R = TypeVar("R", bound=Run)


def current_run(kind: type[R]) -> R:
    """The run that is under way, of the kind that a task needs.

    Raises:
        RuntimeError: outside a flow, or in a flow of another kind.
    """
    run = _CURRENT.get()
    if run is None:
        raise RuntimeError("a task of ts4s runs inside one of its flows")
    if not isinstance(run, kind):
        raise RuntimeError(f"this task runs inside a flow of kind {kind.__name__}, not {type(run).__name__}")
    return run


@contextlib.contextmanager
def begun(run: R) -> Iterator[R]:
    """Begin a run; at its end the Spark program and all that it started are gone."""
    token = _CURRENT.set(run)
    try:
        with run.program:
            yield run
    finally:
        _CURRENT.reset(token)


def open_run(
    settings: Settings, *, progress: Progress = silent, stage: Stage = silent_stage
) -> contextlib.AbstractContextManager[TrainingRun]:
    """Begin a run of the kind of task that the settings name."""
    return begun(training_run(settings, progress=progress, stage=stage))


@contextlib.contextmanager
def joined_run(settings: Settings) -> Iterator[TrainingRun]:
    """The run that is under way (the command line checked its input already), or a new one (a deployment's)."""
    run = _CURRENT.get()
    if run is not None:
        yield current_run(TrainingRun)  # type: ignore[type-abstract]  # whichever kind it is
        return
    with open_run(settings) as opened:
        yield opened
