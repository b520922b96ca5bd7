"""The context that a job runs in: the session, its engine and its launcher, each created at its first use."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.session import cluster
from ts4s_core.spark.session.sessions import SessionPlan, Sessions
from ts4s_core.spark.session.wire_secrecy import keys_in_clear

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ts4s_core.artifacts.leases.lease import Fence
    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.data.data_engine import DataEngine
    from ts4s_core.spark.execution.data_engine import SparkEngine
    from ts4s_core.training.driver.launcher import Launcher

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class JobContext:
    """What a job runs with, and what one job leaves for the next.

    Attributes:
        settings: the settings of the job.
        temporary: private folder of the program.
        sessions: holds at most one Spark session.
        fences: leases and usage marks that the client of the job holds.
        progress: called with the files that are sent to the store or read from it.
    """

    settings: Settings
    temporary: Path
    sessions: Sessions = field(default_factory=Sessions)
    progress: Progress = silent
    fences: tuple[Fence, ...] = ()
    _told_of: SparkSession | None = None
    _engine: tuple[SparkSession, SparkEngine] | None = None
    _scanned: tuple[object, Any] | None = None

    @property
    def has_spark(self) -> bool:
        """Whether jobs run on Spark."""
        return self.settings.spark.master != "none"

    def session(self) -> SparkSession:
        """The session, started at the first call.

        Raises:
            SettingsError: if ``spark.conf`` contradicts what training relies on, or the cluster's tasks do not see the store.
            SparkError: if Spark does not start.
        """
        plan = SessionPlan(self.settings.spark, self.settings.train.threads_per_worker, self.temporary)
        session = self.sessions.get(plan)
        if session is not self._told_of:
            if cluster.is_connect(session) or not cluster.is_local(session):
                from ts4s_core.spark.execution.same_store import require_same_store

                require_same_store(session, self.settings.storage)
            self._told_of = session
            conf = functools.partial(cluster.conf_of, session)
            if line := keys_in_clear(conf, cluster.master_of(session), self.settings.storage):
                log.warning("%s", line)
        return session

    def engine(self) -> DataEngine:
        """Where data are read and scored; one engine a session, because it knows the tables that a scan opened."""
        if self.has_spark:
            from ts4s_core.spark.execution.data_engine import SparkEngine

            session = self.session()
            if self._engine is None or self._engine[0] is not session:
                self._engine = (session, SparkEngine(session))
            return self._engine[1]
        from ts4s_core.data.data_engine import LocalEngine

        return LocalEngine()

    def slots(self) -> int:
        """Tasks that the engine runs at once."""
        if not self.has_spark:
            return 1
        return max(1, cluster.cores(self.session()) // self.settings.train.threads_per_worker)

    def launcher(self) -> Launcher:
        """Where training workers run."""
        train = self.settings.train
        if self.has_spark:
            from ts4s_core.spark.execution.barrier_launcher import BarrierLauncher

            workers = train.workers or train.logical_shards
            return BarrierLauncher(
                self.session,
                threads_per_worker=train.threads_per_worker,
                workers=workers,
                place=self.settings.spark.control,
            )
        from ts4s_core.training.driver.local_launcher import LocalLauncher

        return LocalLauncher(threads_per_worker=train.threads_per_worker)

    def store(self) -> ArtifactStore:
        """The artifact store of the settings; writes through it are guarded by the fences."""
        from ts4s_core.artifacts.store import ArtifactStore

        store = ArtifactStore.open(self.settings.storage, progress=self.progress)
        store.storage.fences.extend(self.fences)
        return store

    def scanned(self, key: object, scan: Callable[[], T]) -> T:
        """The result of the last scan if it was of the same data, else of a new one.

        Args:
            key: which data, and how they are read.
            scan: reads them.
        """
        if self._scanned is None or self._scanned[0] != key:
            self._scanned = None
            self._scanned = (key, scan())
        found: T = self._scanned[1]
        return found

    def forget_scan(self) -> None:
        """Forget the last scan: the next one reads the data again."""
        self._scanned = None
