"""What a session says of its cluster, classic or Spark Connect: master, slots, code that is sent, jobs that are stopped.

``classic.py`` has what needs the driver's JVM; everything here works on both kinds of session.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.spark.connect import client
from ts4s_core.spark.session import classic
from ts4s_core.spark.session.answers import is_answered
from ts4s_core.training.facts import ExecutorFigures

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

#: A cluster's executors register one after the other, and come back one by one after a loss.
REGISTRATION_LIMIT_S = 60.0
SETTLED_S = 5.0
PROGRESS_EVERY_S = 1.0
_POLL_S = 0.1
#: Of the job that counts slots: far more tasks than slots would take longer, and fewer than slots would miss some.
_COUNTING_ROWS = 1 << 16


def is_connect(session: SparkSession) -> bool:
    """Whether a session is a client of Spark Connect, which has no JVM."""
    return type(session).__module__.startswith("pyspark.sql.connect")


def conf_of(session: SparkSession, name: str, default: str = "") -> str:
    """One value of the session's or the application's configuration."""
    if is_connect(session):
        return str(session.conf.get(name, default) or default)
    return str(classic.context_of(session).getConf().get(name, default) or default)


def master_of(session: SparkSession) -> str:
    """The cluster's address, as far as the session knows it."""
    return conf_of(session, "spark.master", "unknown") if is_connect(session) else str(classic.context_of(session).master)


def is_local(session: SparkSession) -> bool:
    """Whether tasks run on the driver's own host, which is this one: they see its files and its installation."""
    return master_of(session).startswith("local") and not (is_connect(session) and _is_remote(session))


def _is_remote(session: SparkSession) -> bool:
    """Whether a Connect server is on another host, as far as its address says."""
    host = str(getattr(getattr(session, "client", None), "host", ""))
    return not host.startswith(("localhost", "127.", "[::1]", "::1"))


def task_cpus(session: SparkSession) -> int:
    """Cores that Spark gives a task."""
    return max(1, int(conf_of(session, "spark.task.cpus", "1") or 1))


def application_of(session: SparkSession) -> str:
    """A name of the session's application: what was sent to one application is not at the next."""
    return str(session.session_id) if is_connect(session) else classic.application_id(session)  # type: ignore[attr-defined]


def slot_count(session: SparkSession) -> int:
    """Tasks that can run at once at this moment."""
    if not is_connect(session):
        return classic.slot_count(session)
    from pyspark.sql import functions as F

    partitions = session.range(_COUNTING_ROWS).select(F.spark_partition_id().alias("part")).distinct().count()
    return int(partitions) // task_cpus(session)


def slots(session: SparkSession, *, wanted: int, settled_s: float = SETTLED_S) -> int:
    """Tasks that Spark can run at once; waits for executors that are still registering, at most a minute.

    Args:
        session: a session.
        wanted: enough; with fewer, a cluster is given time to register its executors.
        settled_s: with some, but fewer, how long to wait for one more.
    """
    local = master_of(session).startswith("local")
    started = changed = time.monotonic()
    before = -1
    while True:
        now, count = time.monotonic(), slot_count(session)
        if count != before:
            before, changed = count, now
        settled = count > 0 and now - changed >= settled_s
        if local or count >= wanted or settled or now - started >= REGISTRATION_LIMIT_S:
            return count
        time.sleep(_POLL_S)


def cores(session: SparkSession) -> int:
    """Cores that tasks have."""
    return slot_count(session) * task_cpus(session) if is_connect(session) else classic.default_parallelism(session)


def send_code(session: SparkSession, path: Path) -> None:
    """Send a module, or a zip of one, to every executor."""
    if is_connect(session):
        session.addArtifacts(str(path), pyfile=True)
    else:
        classic.add_python_file(session, path)


def broadcast(session: SparkSession, files: Mapping[str, bytes]) -> Any:
    """Files for executors, as ``value`` of what is returned; sent once an application."""
    if is_connect(session):
        return client.send_files(session, files, folder_for_code(session))
    return classic.broadcast(session, dict(files))


def folder_for_code(session: SparkSession) -> Path:
    """Where zips of code are put before they are sent; gone when this program ends."""
    if is_connect(session):  # what is sent is copied to the server at once
        return Path(_code_folder().name)
    return classic.private_folder(session)


@functools.cache
def _code_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ts4s-code-")


class JobGroup:
    """Jobs that can be stopped, and counted, together."""

    def __init__(self, session: SparkSession, name: str, description: str) -> None:
        self._session = session
        self._name = name
        self._description = description

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Put the jobs that this thread starts inside into the group."""
        if is_connect(self._session):
            self._session.addTag(self._name)
            try:
                yield
            finally:
                self._session.removeTag(self._name)
            return
        classic.begin_group(self._session, self._name, self._description)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # a JVM that went away has no groups
                classic.end_group(self._session)

    def cancel(self) -> bool:
        """Stop them; False if who would have to do it does not answer.

        Spark Connect's client asks a server that went away for ten minutes, and what that one ran has ended with it.
        """
        if not is_connect(self._session):
            return classic.cancel_group(self._session, self._name)
        return is_answered(lambda: self._session.interruptTag(self._name))

    @contextlib.contextmanager
    def counted(self, on_done: Callable[[int], None]) -> Iterator[None]:
        """Call ``on_done`` with the number of tasks that are done, once a second and in a thread of its own.

        Over Spark Connect there is no count before the end; the caller knows the final one.
        """
        if is_connect(self._session):
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._count, args=(on_done, ended), name="spark-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self, on_done: Callable[[int], None], ended: threading.Event) -> None:
        reported = 0
        while not ended.wait(PROGRESS_EVERY_S):
            try:
                done = classic.tasks_done(self._session, self._name)
            except Exception as exc:  # a JVM that went away: the job itself says so
                log.debug("no news of the Spark job: %s", exc)
                return
            if done > reported:
                reported = done
                on_done(done)


def running_tasks(session: SparkSession) -> int:
    """Tasks of any job; 0 where nobody knows."""
    return 0 if is_connect(session) else classic.running_tasks(session)


def executor_figures(session: SparkSession) -> list[ExecutorFigures]:
    """Spark's figures of each executor; none where nobody knows them."""
    return [] if is_connect(session) else classic.executor_figures(session)


def job_failures() -> tuple[type[Exception], ...]:
    """What a Spark job raises, classic or over Spark Connect."""
    from pyspark.errors import PySparkException

    return (PySparkException, *classic.failures())


def session_thread(session: SparkSession, work: Callable[[], None], *, name: str) -> threading.Thread:
    """A thread whose jobs belong to the session's as if its starter had begun them; not started yet."""
    if is_connect(session):
        return threading.Thread(target=work, name=name, daemon=True)
    return classic.inheriting_thread(work, name=name)
