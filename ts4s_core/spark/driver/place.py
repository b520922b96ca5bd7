"""Where a job runs: the session, its engine and its launcher, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.spark.session.sessions import SessionPlan, Sessions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ts4s_core.artifacts.store import ArtifactStore
    from ts4s_core.data.corpus.scan import TextScan
    from ts4s_core.data.data_engine import DataEngine
    from ts4s_core.data.scan import Scan
    from ts4s_core.spark.execution.data_engine import SparkEngine
    from ts4s_core.training.driver.launcher import Launcher


@dataclass
class Place:
    """Where jobs run, and what they leave for the next one.

    Attributes:
        settings: the settings of the job.
        temporary: private folder of the program.
        sessions: holds at most one Spark session.
        scanned: what was scanned last, and what it says.
        progress: told of files that go to the store or come from there.
        scanned_text: the same for the text of a language model.
    """

    settings: Settings
    temporary: Path
    sessions: Sessions = field(default_factory=Sessions)
    scanned: tuple[object, Scan] | None = None
    scanned_text: tuple[object, TextScan] | None = None
    progress: Progress = silent
    _engine: tuple[SparkSession, SparkEngine] | None = None

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
        return max(1, int(self.session().sparkContext.defaultParallelism) // self.settings.train.threads_per_worker)

    def launcher(self) -> Launcher:
        """Where training workers run."""
        train = self.settings.train
        if self.has_spark:
            from ts4s_core.spark.execution.barrier_launcher import BarrierLauncher

            wanted = train.workers or train.logical_shards
            return BarrierLauncher(self.session, threads_per_worker=train.threads_per_worker, workers=wanted)
        from ts4s_core.training.driver.local_launcher import LocalLauncher

        return LocalLauncher(threads_per_worker=train.threads_per_worker)

    def store(self) -> ArtifactStore:
        """The artifact store of the settings."""
        from ts4s_core.artifacts.store import ArtifactStore

        return ArtifactStore.open(self.settings.storage, progress=self.progress)

    def scan(self, *, again: bool) -> Scan:
        """What the data are: what the last scan of the same data found, unless it is to be done again."""
        from ts4s_core.data.scan import scan

        wanted = (self.settings.data, self.settings.model.task)
        if again or self.scanned is None or self.scanned[0] != wanted:
            self.scanned = None
            self.scanned = (wanted, scan(self.settings, self.engine()))
        return self.scanned[1]

    def scan_text(self, tokenizer: Mapping[str, bytes] | None, *, again: bool) -> TextScan:
        """What the text is, and its tokenizer: what the last scan of the same text found, unless it is to be done again."""
        from ts4s_core.data.corpus.scan import scan_text

        model = self.settings.model
        wanted = (self.settings.data, model.tokenizer_kind, model.vocabulary_size, tokenizer)
        if again or self.scanned_text is None or self.scanned_text[0] != wanted:
            self.scanned_text = None
            self.scanned_text = (wanted, scan_text(self.settings, self.engine(), tokenizer=tokenizer))
        return self.scanned_text[1]
