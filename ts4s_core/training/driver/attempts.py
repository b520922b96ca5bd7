"""Attempts of one training step: a failed one is restarted from the last checkpoint, unless it would fail again."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace

from ts4s_core.artifacts.leases.lease import check_fences
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    SlotsError,
    SparkError,
    StoreError,
    TrainingError,
    Ts4sError,
    WorkerFailedError,
    WorkerLostError,
)
from ts4s_core.retries import Backoff
from ts4s_core.training.checkpoints.listing import checkpoints, last_generation
from ts4s_core.training.checkpoints.training_progress import TrainingProgress
from ts4s_core.training.driver.launcher import Launcher
from ts4s_core.training.driver.metrics import Metrics
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

_RETRIED = (WorkerLostError, WorkerFailedError, SparkError, StoreError)
#: Failures that come from outside: the next attempt may well be spared, however often they came.
_FROM_OUTSIDE = (WorkerLostError, StoreError)
#: Before an attempt that follows on a failure of the store.
_OF_THE_STORE = Backoff(tries=1, first_s=2.0, longest_s=30.0)
#: What differs from attempt to attempt in the text of one and the same failure.
_PARTICULARS = re.compile(r"[Ww]orkers? \d+|[Rr]ank \d+|pid \d+|stage \d+\.\d+|TID \d+|task \d+\.\d+|attempt \d+|0x[0-9a-f]+")


class Attempts:
    """Runs attempts until one succeeds.

    Attributes:
        restarts: attempts that failed.
        workers: workers of the current attempt.
    """

    def __init__(
        self,
        job: TrainJob,
        store: ArtifactStore,
        launcher: Launcher,
        *,
        metrics: Metrics,
        workers: int,
        max_restarts: int,
        own_only: bool = False,
        check_output: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            check_output: raises ConflictError once the version that the attempts write into was taken away.
        """
        self.restarts = 0
        self.workers = workers
        self._job = job
        self._store = store
        self._launcher = launcher
        self._metrics = metrics
        self._max_restarts = max_restarts
        self._own_only = own_only
        self._check_output = check_output
        self._first_generation = 1 + last_generation(store, job.name, job.key)
        self._slots = launcher.slots()
        self._refused = False
        self._last_failure: tuple[str, str, int] | None = None

    def run(self) -> None:
        """Run them.

        Raises:
            Ts4sError: the last attempt's failure, or one that another attempt would meet again.
        """
        while True:
            try:
                if self.restarts:
                    self._shrink()
                self._attempt()
                return
            except _RETRIED as exc:
                if self.restarts >= self._max_restarts or self._is_final(exc):
                    raise
                self.restarts += 1
                self._refused = isinstance(exc, SlotsError)
                log.warning("training attempt failed, restart %d of %d: %s", self.restarts, self._max_restarts, exc)
                if isinstance(exc, StoreError):
                    time.sleep(_OF_THE_STORE.pause_s(self.restarts))

    def _is_final(self, failure: Ts4sError) -> bool:
        """Whether another attempt would fail in the same way.

        That is so with damaged files, too few slots, an output that was taken away, and the same error at the same step.
        """
        if isinstance(failure, ConflictError) and not self._has_output():
            return True
        if isinstance(failure, IntegrityError) or (isinstance(failure, SlotsError) and self._metrics.started is None):
            return True
        if isinstance(failure, _FROM_OUTSIDE):
            return False
        this = (type(failure).__name__, _PARTICULARS.sub("", str(failure)), self._metrics.last_step)
        again, self._last_failure = this == self._last_failure, this
        if again:
            log.error("training failed twice in the same way at the same step, so it is not tried again")
        return again

    def _has_output(self) -> bool:
        try:
            self._check_output()
        except ConflictError:
            return False
        return True

    def _attempt(self) -> None:
        check_fences(self._store.storage, self._store.storage.fences)
        generation = self._first_generation + self.restarts
        job = replace(self._job, attempt=self.restarts, generation=generation, resume=self._go_on_from_newest())
        with self._launcher.control(job, world_size=self.workers, listener=self._metrics.listen) as control:
            self._launcher.run(job.without_secrets(), world_size=self.workers, control=control)
            if control.failure is not None:
                raise control.failure
            if not control.finished:
                raise WorkerLostError(
                    "Training ended early: expected a result of every worker, but its launcher returned. Run it again"
                )

    def _shrink(self) -> None:
        """Go on with fewer workers where slots were lost."""
        slots = self._launcher.slots()
        # A launcher that refuses had all slots when training began, even if some were not there yet when they were counted.
        if slots < (self.workers if self._refused else min(self._slots, self.workers)):
            if self._job.settings.strategy == "averaging":
                raise TrainingError(
                    f"Training with train.strategy averaging cannot go on: expected slots for {self.workers} workers, because "
                    f"its result depends on their number, got {slots}. Give it its slots back, or set train.workers {slots}"
                )
            self.workers = largest_divisor(self._job.settings.logical_shards, at_most=slots)
            log.warning("%d slots are left: going on with %d workers", slots, self.workers)

    def _go_on_from_newest(self) -> str | None:
        """The checkpoint that the attempt begins with; its history is read here, where all of it is kept."""
        # What the attempt before did not get sealed; its workers are gone.
        discard_unsealed(self._store, "checkpoint", self._job.name)
        own = self._job.output if self._own_only else None
        for ref in checkpoints(self._store, self._job.name, self._job.key, of=own):
            try:
                rows = TrainingProgress.of(self._store.local(ref)).metrics
            except (IntegrityError, NotFoundError) as exc:
                log.warning("checkpoint %s is damaged or gone, an older one is used: %s", ref, exc)
                continue
            self._metrics.go_on_from(rows)
            log.info("training goes on from checkpoint %s", ref)
            return str(ref)
        self._metrics.go_on_from([])
        return None


def largest_divisor(parts: int, *, at_most: int) -> int:
    """The largest power of two that divides ``parts`` and is not above ``at_most`` (1 at least)."""
    workers = parts
    while workers > max(1, at_most):
        workers //= 2
    return workers
