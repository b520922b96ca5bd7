"""Training workers as the tasks of one Spark barrier stage: all start together, and one that fails ends the others.

Spark never retries a barrier result stage, so an attempt that fails is the caller's to repeat. Workers find each other and
report through a control server: the driver's, or rank 0's where workers cannot connect to the program that started them. What
Spark says of a task is only the second source of a failure's cause.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import psutil

from ts4s_core.artifacts.facts import JsonObject
from ts4s_core.errors import SlotsError, SparkError, Ts4sError, WorkerLostError, to_wire
from ts4s_core.settings.spark_conf import DYNAMIC_ALLOCATION, check_static_executors
from ts4s_core.sockets import Interface
from ts4s_core.spark.session import cluster
from ts4s_core.spark.session.answers import answer_of
from ts4s_core.spark.session.cluster import JobGroup
from ts4s_core.spark.session.failures import as_error
from ts4s_core.training.control.mailbox import MailAddress
from ts4s_core.training.control.remote import REFUSED, RemoteControl
from ts4s_core.training.driver.launcher import control_here
from ts4s_core.training.facts import ExecutorFigures

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from ts4s_core.training.control.hosted import Gather
    from ts4s_core.training.control.server import ControlServer, Follow
    from ts4s_core.training.job import TrainJob

logger = logging.getLogger(__name__)

END_LIMIT_S = 10.0
CAUSE_LIMIT_S = 1.0
_POLL_S = 0.1
_SLOTS_EVERY_S = 2.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Where an attempt's control server is.
Place: TypeAlias = Literal["auto", "driver", "worker"]
_LOST = ("Python worker exited unexpectedly", "ExecutorLostFailure", "Python worker failed to connect back", "EOFError")


@dataclass(frozen=True)
class Task:
    """The input of one task of the stage, as plain values that Spark carries.

    Attributes:
        job: ``TrainJob.to_wire()``; without the store's secrets where these come over the driver's control channel.
        control: ``ControlAddress.to_wire()``; with a server in rank 0's process, ``MailAddress.to_wire()``.
        rank: partition id.
        world_size: number of tasks.
        address: the interface by which the other tasks reach this one.
    """

    job: str
    control: str
    rank: int
    world_size: int
    address: str


def train_worker(task: Task) -> JsonObject:
    """Run the training worker of a task."""
    from ts4s_core.training.control.address import ControlAddress
    from ts4s_core.training.job import TrainJob
    from ts4s_core.training.worker.worker import run_worker

    result = run_worker(
        TrainJob.from_wire(task.job),
        rank=task.rank,
        world_size=task.world_size,
        control=ControlAddress.from_wire(task.control),
        address=task.address,
    )
    return result.to_json()


class BarrierLauncher:
    """The Launcher of training on Spark.

    Args:
        session: gives the session; called before every attempt, because its JVM may have died in the last one.
        threads_per_worker: threads of a worker, which is also ``spark.task.cpus``.
        workers: as many slots as are worth waiting for while a cluster's executors register.
        place: where the control server is; ``auto``: the driver, but over Spark Connect rank 0.
        work: what a task runs.
    """

    def __init__(
        self,
        session: Callable[[], SparkSession],
        *,
        threads_per_worker: int,
        workers: int,
        place: Place = "auto",
        work: Callable[[Task], JsonObject] = train_worker,
    ) -> None:
        self._session = session
        self._place = place
        self._threads = threads_per_worker
        self._workers = workers
        self._work = work

    def control(self, job: TrainJob, *, world_size: int, listener: Follow) -> ControlServer | RemoteControl:
        """The attempt's control server here, or what is heard of the one in rank 0's process."""
        if self._is_remote():
            return RemoteControl(job, world_size=world_size, listener=listener)
        return control_here(self.control_interface(), job, world_size=world_size, listener=listener)

    def _is_remote(self) -> bool:
        return self._place == "worker" or (self._place == "auto" and cluster.is_connect(self._session()))

    def control_interface(self) -> Interface:
        """The driver's own, as Spark's configuration names it: executors reach Spark's driver in the same way."""
        session = self._session()
        if cluster.is_connect(session):
            return Interface("127.0.0.1")  # the server is on this host, as who asks for this says
        host = cluster.conf_of(session, "spark.driver.host", "127.0.0.1")
        return Interface(host, cluster.conf_of(session, "spark.driver.bindAddress"))

    def slots(self) -> int:
        """Workers that can run at once; waits for executors that are still registering, at most a minute.

        Raises:
            SettingsError: if executors come and go; the application's own configuration may say so, as of ``spark-submit``.
        """
        session = self._session()
        dynamic = cluster.conf_of(session, DYNAMIC_ALLOCATION)
        check_static_executors(dynamic, where=f"the Spark application on {cluster.master_of(session)}")
        return cluster.slots(session, wanted=self._workers)

    def figures(self) -> list[ExecutorFigures]:
        """Spark's figures of each executor; none of a JVM that is gone: training is done by then."""
        return answer_of(lambda: cluster.executor_figures(self._session()), [])

    def run(self, job: TrainJob, *, world_size: int, control: ControlServer | RemoteControl) -> None:
        """Run one attempt to its end.

        Raises:
            SlotsError: if there are fewer slots than workers.
            SparkError: if Spark fails.
            WorkerLostError: if a worker died.
            Ts4sError: the first failure that the control server heard of.
        """
        session = self._session()
        # So many were asked for, or there a moment ago: an executor that is still starting is worth the wait.
        free = cluster.slots(session, wanted=world_size, settled_s=cluster.REGISTRATION_LIMIT_S)
        if free < world_size:
            raise SlotsError(
                f"training attempt on {cluster.master_of(session)}: expected {world_size} task slots of {self._threads} cores, "
                f"got {free}. Lower train.workers, or give Spark more cores"
            )
        stage = _Stage(session, work=self._work, threads=self._threads)
        try:
            failure = stage.run(job, control=control, world_size=world_size)
        finally:
            stage.end(control)
        if isinstance(control, RemoteControl):
            control.drain()
        elif failure is not None:
            control.failed.wait(CAUSE_LIMIT_S)  # a dead worker's connection may end after its task
        if control.failure is not None:
            raise control.failure
        if failure is not None:
            raise _as_training_error(failure) from failure
        if isinstance(control, RemoteControl):
            control.take(stage.rows)


class _Stage:
    """One attempt: a Spark job in a thread of its own, so that it can be cancelled."""

    def __init__(self, session: SparkSession, *, work: Callable[[Task], JsonObject], threads: int) -> None:
        self._session = session
        self._work = work
        self._threads = threads
        self._name = f"training-{uuid.uuid4().hex[:8]}"
        self._group = JobGroup(session, self._name, "training")
        self._failure: BaseException | None = None
        self._running = False
        self._answers = True
        self.rows: list[JsonObject] = []

    def run(self, job: TrainJob, *, control: ControlServer | RemoteControl, world_size: int) -> BaseException | None:
        """Wait for the stage, or for the control server's word that the attempt failed; returns what Spark raised."""
        tasks = self._session.range(0, world_size, 1, world_size)
        if isinstance(control, RemoteControl):
            sent, where, hosted = control.job.to_wire(), control.mail.to_wire(), True
        else:
            sent, where, hosted = job.to_wire(), control.address.to_wire(), False
        body = task_body(
            sent,
            where,
            world_size=world_size,
            work=self._work,
            threads=self._threads,
            hosted=hosted,
        )

        def collect() -> None:
            try:
                with self._group.begun():
                    rows = tasks.mapInArrow(body, "result string", barrier=True).collect()
                self.rows = [json.loads(row[0]) for row in rows]
            except BaseException as exc:  # handed to the waiting thread
                self._failure = exc

        thread = cluster.session_thread(self._session, collect, name=self._name)
        self._running = True
        thread.start()
        finished_s = 0.0
        looked = time.monotonic()
        # Results come over the control channel: a stage that hangs although every worker is done need not be waited for.
        while thread.is_alive() and not control.failed.is_set() and finished_s < END_LIMIT_S:
            thread.join(_POLL_S)
            finished_s += _POLL_S * control.finished
            if time.monotonic() - looked > _SLOTS_EVERY_S:
                self._require_slots(control, world_size)
                looked = time.monotonic()
        if thread.is_alive():
            self._answers = self._group.cancel()
            thread.join(END_LIMIT_S if self._answers else 0)
        self._running = thread.is_alive()
        return self._failure

    def _require_slots(self, control: ControlServer | RemoteControl, world_size: int) -> None:
        """Fail an attempt whose tasks can no longer start: Spark looks at its slots when a stage begins, and then waits."""
        if len(control.workers()) == world_size:
            return
        left = answer_of(lambda: cluster.slot_count(self._session), world_size)
        if left < world_size:
            lost = f"an executor was lost before every worker had begun: expected {world_size} task slots, got {left}"
            control.fail(WorkerLostError(f"training attempt on {cluster.master_of(self._session)}: {lost}"))

    def end(self, control: ControlServer | RemoteControl) -> None:
        """See to it that nothing of the attempt goes on: tasks are cancelled, stopped or orphaned workers killed."""
        if self._running and self._answers:
            self._group.cancel()
        if self._running or self._failure is not None or control.failure is not None:
            here = [worker.pid for worker in control.workers().values() if worker.host == socket.gethostname()]
            kill_python_workers(here)
        deadline = time.monotonic() + END_LIMIT_S
        while cluster.running_tasks(self._session) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def task_body(
    job: str, control: str, *, world_size: int, work: Callable[[Task], JsonObject], threads: int, hosted: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function of the stage: yields one JSON result a task.

    Args:
        job: see :class:`Task`.
        control: see :class:`Task`.
        world_size: number of tasks.
        work: what a task runs.
        threads: of each task.
        hosted: whether the control server is in rank 0's process.
    """

    def body(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyspark import BarrierTaskContext

        from ts4s_core.processes import give_back_memory, set_death_signal
        from ts4s_core.sockets import bare

        # PySpark's daemon signals its workers to end when its JVM is gone, which a stopped one does not receive.
        set_death_signal(signal.SIGKILL)
        # Before anything imports torch; PySpark presets the first by spark.task.cpus, which a cluster may override.
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        for _batch in batches:  # the number of the task, which the context says too
            pass
        context = BarrierTaskContext.get()
        rank = context.partitionId()
        address = bare(context.getTaskInfos()[rank].address.rsplit(":", 1)[0])
        task = Task(job=job, control=control, rank=rank, world_size=world_size, address=address)
        result = hosted_work(task, context.allGather, work) if hosted else work(task)
        gc.collect()  # graphs and hooks refer to each other
        give_back_memory()
        yield pa.RecordBatch.from_pydict({"result": [json.dumps(result)]})

    return body


def hosted_work(task: Task, gather: Gather, work: Callable[[Task], JsonObject]) -> JsonObject:
    """Run a worker with the control server in rank 0's process; a refusal to begin is a row too, which Spark keeps whole."""
    from ts4s_core.training.control.hosted import hosted_control
    from ts4s_core.training.job import TrainJob

    job, mail = TrainJob.from_wire(task.job), MailAddress.from_wire(task.control)
    with contextlib.ExitStack() as stack:
        try:
            control = stack.enter_context(
                hosted_control(job, mail, rank=task.rank, world_size=task.world_size, address=task.address, gather=gather)
            )
        except Ts4sError as exc:
            return {REFUSED: to_wire(exc)}
        return work(replace(task, job=job.without_secrets().to_wire(), control=control.to_wire()))


def _as_training_error(failure: BaseException) -> Ts4sError:
    """What Spark raised, as an error of training: a lost worker can be replaced, other errors may not be."""
    text = str(failure)
    error = as_error(failure, what="training attempt")
    if isinstance(error, SparkError) and any(sign in text for sign in _LOST):
        return WorkerLostError(f"training attempt lost a worker: {next(sign for sign in _LOST if sign in text)}")
    return error


def kill_python_workers(pids: Iterable[int]) -> None:
    """Kill workers of this host that cannot end by themselves (stopped, or their JVM is gone), and wait until they have ended."""
    workers = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            command = process.cmdline()  # empty: it is ending now
            if not command or any(part.startswith("pyspark") for part in command):  # else its number was given away
                process.kill()
                workers.append(process)
    psutil.wait_procs(workers, timeout=END_LIMIT_S)
