"""The barrier launcher with toy workers, in one real session."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark import cloudpickle
from spark_sessions import own_sessions

from ts4s_core.errors import NonFiniteError, SparkError, TrainingError, Ts4sError, WorkerLostError
from ts4s_core.processes import is_living
from ts4s_core.settings import SparkSettings
from ts4s_core.sockets import Interface
from ts4s_core.spark.execution.barrier_launcher import BarrierLauncher, Task
from ts4s_core.spark.session.classic import watch
from ts4s_core.spark.session.cluster import slots
from ts4s_core.spark.session.sessions import SessionPlan, Sessions
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient
from ts4s_core.training.control.messages import WorkerResult
from ts4s_core.training.control.server import ControlServer
from ts4s_core.training.job import TrainJob

# Executors cannot import a test module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def connected(task: Task) -> ControlClient:
    return ControlClient(ControlAddress.from_wire(task.control), rank=task.rank, own_address=task.address)


def all_well(task: Task) -> dict[str, Any]:
    """Exchange what each rank sees, compare it with what it should see, and tell the driver."""
    client = connected(task)
    job = TrainJob.from_wire(task.job)
    seen = client.gather("hello", [task.rank, task.address, os.environ["OMP_NUM_THREADS"], job.name], timeout_s=30)
    if seen != [[rank, "127.0.0.1", "2", "toy"] for rank in range(task.world_size)]:
        client.fail(TrainingError(f"rank {task.rank} saw {seen}"))
    client.done(WorkerResult(rank=task.rank, steps=0), timeout_s=30)
    return {"rank": task.rank}


def rank_1_fails(task: Task) -> dict[str, Any]:
    client = connected(task)
    client.gather("hello", None, timeout_s=30)
    if task.rank == 1:
        error = NonFiniteError("Loss of step 3 is nan")
        client.fail(error)
        raise error
    time.sleep(60)
    return {}


def rank_1_fails_without_a_word(task: Task) -> dict[str, Any]:
    if task.rank == 1:
        raise NonFiniteError("Loss of step 4 is nan")
    time.sleep(60)
    return {}


def stuck(task: Task) -> dict[str, Any]:
    client = connected(task)
    client.gather("hello", None, timeout_s=30)
    time.sleep(60)
    return {}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> SessionPlan:
    return SessionPlan(SparkSettings(master="local[4]"), 2, tmp_path_factory.mktemp("spark"))


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sessions]:
    with own_sessions() as sessions:
        yield sessions


def job() -> TrainJob:
    return TrainJob(
        name="toy",
        key="0",
        dataset="",
        model="",
        output="",
        task="classification",
        train={"threads_per_worker": 2},
        storage={"uri": "x"},
    )


def run(
    launcher: BarrierLauncher,
    *,
    world_size: int = 2,
    timeout_s: float = 60,
    during: Callable[[ControlServer], None] | None = None,
) -> list[Any]:
    messages: list[Any] = []
    listener = lambda _rank, message: messages.append(message)  # noqa: E731
    with ControlServer(
        launcher.control_interface().host, world_size=world_size, timeout_s=timeout_s, listener=listener
    ) as control:
        if during is not None:
            threading.Thread(target=during, args=(control,), daemon=True).start()
        launcher.run(job(), world_size=world_size, control=control)
        assert control.finished
    return messages


def victim(control: ControlServer, rank: int) -> psutil.Process:
    while rank not in control.workers():
        time.sleep(0.05)
    time.sleep(0.2)
    return psutil.Process(control.workers()[rank].pid)


def launcher(sessions: Sessions, plan: SessionPlan, work: Callable[[Task], dict[str, Any]]) -> BarrierLauncher:
    return BarrierLauncher(lambda: sessions.get(plan), threads_per_worker=2, workers=2, work=work)


def test_workers_meet_and_return(sessions: Sessions, plan: SessionPlan) -> None:
    training = launcher(sessions, plan, all_well)
    assert training.slots() == slots(sessions.get(plan), wanted=100) == 2  # 4 cores, 2 threads each
    assert training.control_interface() == Interface("127.0.0.1", "127.0.0.1")
    messages = run(training)
    assert sorted(message.result.rank for message in messages) == [0, 1]


def test_too_few_slots_are_told_at_once(sessions: Sessions, plan: SessionPlan) -> None:
    with pytest.raises(SparkError, match=r"local\[4\]: expected 4 task slots of 2 cores, got 2\. Lower train\.workers"):
        run(launcher(sessions, plan, all_well), world_size=4)


@pytest.mark.parametrize(("work", "step"), [(rank_1_fails, 3), (rank_1_fails_without_a_word, 4)])
def test_the_workers_own_error_comes_back(
    sessions: Sessions, plan: SessionPlan, work: Callable[[Task], dict[str, Any]], step: int
) -> None:
    with pytest.raises(NonFiniteError) as caught:
        run(launcher(sessions, plan, work))
    assert str(caught.value) == f"Loss of step {step} is nan"


SILENCE_LIMIT_S = 60


@pytest.mark.parametrize(("number", "timeout_s"), [(signal.SIGKILL, SILENCE_LIMIT_S), (signal.SIGSTOP, 2)])
def test_a_lost_worker_ends_the_attempt(sessions: Sessions, plan: SessionPlan, number: int, timeout_s: float) -> None:
    workers: list[psutil.Process] = []
    hit: list[float] = []

    def lose(control: ControlServer) -> None:
        workers.extend([victim(control, 0), victim(control, 1)])
        workers[1].send_signal(number)
        hit.append(time.monotonic())

    with pytest.raises(WorkerLostError, match=r"[Ww]orker"):
        run(launcher(sessions, plan, stuck), timeout_s=timeout_s, during=lose)
    assert time.monotonic() - hit[0] < SILENCE_LIMIT_S  # a death is seen at once, a silence after timeout_s
    assert not any(is_living(worker) for worker in workers)
    messages = run(launcher(sessions, plan, all_well))  # the same session takes the next attempt
    assert len(messages) == 2


def test_a_lost_jvm_is_replaced_for_the_next_attempt(sessions: Sessions, plan: SessionPlan) -> None:
    workers: list[psutil.Process] = []

    def lose(control: ControlServer) -> None:
        workers.extend([victim(control, 0), victim(control, 1)])
        sessions.get(plan).sparkContext._gateway.proc.kill()

    with pytest.raises(Ts4sError) as caught:
        run(launcher(sessions, plan, stuck), during=lose)
    assert isinstance(caught.value, SparkError | WorkerLostError)
    assert [worker for worker in workers if is_living(worker)] == []
    assert len(run(launcher(sessions, plan, all_well))) == 2


@pytest.mark.long
def test_a_jvm_that_is_stopped_is_replaced(sessions: Sessions, plan: SessionPlan) -> None:
    session = sessions.get(plan)
    process = session.sparkContext._gateway.proc
    os.kill(process.pid, signal.SIGSTOP)
    watch(session, limit_s=2)
    process.wait(30)
    assert process.returncode == -signal.SIGKILL
    assert len(run(launcher(sessions, plan, all_well))) == 2


def test_nothing_is_written_outside_the_private_folder(sessions: Sessions, plan: SessionPlan) -> None:
    assert sessions.get(plan).sparkContext.getConf().get("spark.local.dir") == str(plan.temporary / "local")
    assert not list(Path(tempfile.gettempdir()).glob("blockmgr-*"))
