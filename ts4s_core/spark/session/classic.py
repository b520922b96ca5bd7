"""What only a classic session can do: the one module that talks to Spark's JVM through Py4J.

A Spark Connect client has no JVM. What is done there instead:

- slots: counted by a job that looks where its tasks run (:func:`ts4s_core.spark.session.cluster.slots`);
- figures of executors, tasks that are running: not known, and left out;
- cancelling: by tags of the session;
- code: ``addArtifacts`` in place of ``addPyFile``;
- a JVM that dies or does not answer: the server's own business.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.spark.session.answers import SILENCE_LIMIT_S, answer_of, is_answered
from ts4s_core.spark.session.internals import (
    forget_jvm,
    hadoop_configuration,
    is_open,
    jvm_of,
    jvm_process,
    own_folder,
    scala_context,
    start_jvm,
)
from ts4s_core.training.facts import ExecutorFigures

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
#: Name here, and the getter of Spark's summary of an executor.
_FIGURES = {
    "cores": "totalCores",
    "max_memory": "maxMemory",
    "memory_used": "memoryUsed",
    "tasks": "totalTasks",
    "failed_tasks": "failedTasks",
    "task_ms": "totalDuration",
    "gc_ms": "totalGCTime",
    "input_bytes": "totalInputBytes",
    "shuffle_read": "totalShuffleRead",
    "shuffle_write": "totalShuffleWrite",
}
_PEAKS = {"peak_jvm_heap": "JVMHeapMemory", "peak_python_rss": "ProcessTreePythonRSSMemory"}


def context_of(session: SparkSession) -> SparkContext:
    """The session's context."""
    return session.sparkContext


def failures() -> tuple[type[Exception], ...]:
    """What calls into the JVM raise beside PySpark's own errors."""
    from py4j.protocol import Py4JError

    return (Py4JError,)


def slot_count(session: SparkSession) -> int:
    """Tasks of the executors that Spark has at this moment, by the count that it checks barrier stages with."""
    scala = scala_context(context_of(session))
    return int(scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile()))


def default_parallelism(session: SparkSession) -> int:
    """Cores that tasks have."""
    return int(context_of(session).defaultParallelism)


def running_tasks(session: SparkSession) -> int:
    """Tasks of any job; 0 if the JVM does not answer: they have gone with it, or will."""
    context = context_of(session)
    return answer_of(lambda: sum(info.numRunningTasks() for info in scala_context(context).statusTracker().getExecutorInfos()), 0)


def begin_group(session: SparkSession, group: str, description: str) -> None:
    """Put the jobs that this thread starts into a group."""
    context_of(session).setJobGroup(group, description, interruptOnCancel=True)


def end_group(session: SparkSession) -> None:
    """Let this thread's jobs be in no group again."""
    context_of(session).setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def cancel_group(session: SparkSession, group: str) -> bool:
    """Cancel the jobs of a group; False if the JVM does not answer, and a dead one has nothing left to cancel."""
    return is_answered(lambda: context_of(session).cancelJobGroup(group))


def tasks_done(session: SparkSession, group: str) -> int:
    """Tasks of a group's jobs that have ended well.

    Raises:
        Exception: whatever Py4J makes of a JVM that went away.
    """
    tracker = context_of(session).statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    return sum(stage.numCompletedTasks for stage in stages if stage is not None)


def executor_figures(session: SparkSession) -> list[ExecutorFigures]:
    """A row of figures for every executor since the session began; empty if Spark does not report them."""
    try:
        found = scala_context(context_of(session)).statusStore().executorList(False)
        return [_figures(found.apply(index)) for index in range(found.size())]
    except Exception as exc:  # figures are worth less than the training that they are of
        log.warning("Spark does not report the figures of its executors: %s", str(exc).splitlines()[0])
        return []


def _figures(summary: Any) -> ExecutorFigures:
    figures: ExecutorFigures = {"executor": str(summary.id()), "host": str(summary.hostPort()).rpartition(":")[0]}
    numbers: ExecutorFigures = {name: int(getattr(summary, getter)()) for name, getter in _FIGURES.items()}
    peaks = summary.peakMemoryMetrics()
    if peaks.isDefined():
        numbers |= {name: int(peaks.get().getMetricValue(metric)) for name, metric in _PEAKS.items()}
    return figures | numbers


def application_id(session: SparkSession) -> str:
    """Spark's name of the application."""
    return str(context_of(session).applicationId)


def ui_address(session: SparkSession) -> str | None:
    """Address of Spark's UI, where it is on."""
    return context_of(session).uiWebUrl


def add_python_file(session: SparkSession, path: Path) -> None:
    """Send a module or a zip of one to every executor. Spark serves the file from where it is."""
    before = list(sys.path)
    context_of(session).addPyFile(str(path))
    # Spark puts its copy on this program's own path too, where an edited module would be reloaded from it.
    sys.path[:] = [entry for entry in sys.path if entry in before]


def private_folder(session: SparkSession) -> Path:
    """A folder of the driver's that Spark deletes at the end."""
    return own_folder(context_of(session))


def broadcast(session: SparkSession, value: Any) -> Any:
    """A value on every executor, sent once: its ``value``."""
    return context_of(session).broadcast(value)


def hadoop_files(session: SparkSession, folder: str) -> tuple[Any, Any]:
    """Hadoop's file system of a folder, and what makes a path of it: of (parent, name), on this host if ``here``."""
    context = context_of(session)
    make = jvm_of(context).org.apache.hadoop.fs.Path

    def path(parent: str, name: str, *, here: bool = False) -> Any:
        return make(Path(parent).as_uri() if here else parent, name)

    return make(folder).getFileSystem(hadoop_configuration(context)), path


def is_alive(session: SparkSession) -> bool:
    """Whether a session's JVM still answers and its context was not stopped."""
    context = context_of(session)
    process = jvm_process(context)
    if not is_open(context) or (process is not None and process.poll() is not None):
        return False
    return not answer_of(lambda: bool(scala_context(context).isStopped()), True)


def submitted_conf() -> dict[str, str]:
    """What ``spark-submit`` has settled; empty where it did not start this program."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    from pyspark import SparkConf

    start_jvm(SparkConf(loadDefaults=False))  # the one that started us: until it is met, a configuration is Python's alone
    return dict(SparkConf().getAll())


def log_in(conf: Mapping[str, str], user: str) -> None:
    """Start the JVM and log the user in to Hadoop, which fails by itself if the system has no name for the user id."""
    from pyspark import SparkConf

    jvm = start_jvm(SparkConf(loadDefaults=False).setAll(list(conf.items())))
    users = jvm.org.apache.hadoop.security.UserGroupInformation
    users.setLoginUser(users.createRemoteUser(user))


def watch(session: SparkSession, *, limit_s: float = SILENCE_LIMIT_S) -> None:
    """Kill the JVM of a session if it stops answering, from a thread: a thread that waits for it then gets an error.

    Under ``spark-submit`` the JVM is our parent, and is left alone.

    Args:
        session: the session; the thread ends with it.
        limit_s: longest silence, in seconds.
    """
    context = context_of(session)
    process = jvm_process(context)
    if process is None:
        return

    def look() -> None:
        heard = time.monotonic()
        while process.poll() is None and is_open(context):
            if is_answered(lambda: scala_context(context).isStopped(), limit_s=limit_s):
                heard = time.monotonic()
            elif time.monotonic() - heard >= limit_s and process.poll() is None:
                log.warning("Spark's JVM (pid %d) did not answer for %.0f s and is killed", process.pid, limit_s)
                process.kill()
                return
            time.sleep(min(_LOOK_EVERY_S, limit_s / 4))

    threading.Thread(target=look, name="watch-jvm", daemon=True).start()


def abandon_dead_jvm(*, assume_dead: bool = False) -> None:
    """Let pyspark start anew after its JVM died; it would talk to the dead one for ever.

    Args:
        assume_dead: whether to treat the JVM as dead although its process still exists: a killed one closes its sockets first.
    """
    from pyspark import SparkContext

    process = jvm_process(SparkContext)
    if process is None or not (assume_dead or process.poll() is not None):
        return
    process.kill()
    process.wait()
    forget_jvm(process)


def inheriting_thread(work: Callable[[], None], *, name: str) -> threading.Thread:
    """A thread with this one's job group and local properties."""
    from pyspark import InheritableThread

    return InheritableThread(target=work, name=name, daemon=True)
