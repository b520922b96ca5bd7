"""Training workers as plain processes of this host: for ``--spark.master none`` and for tests."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ts4s_core
from ts4s_core.errors import Ts4sError, WorkerFailedError, WorkerLostError
from ts4s_core.sockets import Interface
from ts4s_core.training.control.client import ABORTED
from ts4s_core.training.control.server import ControlServer, Follow
from ts4s_core.training.driver.launcher import control_here
from ts4s_core.training.facts import ExecutorFigures
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

_POLL_S = 0.05
#: Time that a failed attempt's workers have to end by themselves, and that the control channel has to name the cause.
_GRACE_S = 2.0
_LAST_LINES = 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGE_ROOT = str(Path(ts4s_core.__file__).resolve().parents[1])


@dataclass(frozen=True)
class HostPlacement:
    """Where a rank's process runs.

    Attributes:
        address: the interface by which its peers reach it.
        prefix: words before its command, such as ``ip netns exec NAME``; what they start must replace itself by the command.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class LocalLauncher:
    """Starts every rank as a child process, and lets none of them live longer than :meth:`run`.

    Args:
        threads_per_worker: threads of a worker.
        python_path: folders that workers import from beside this package: a custom factory's home.
        placements: of the ranks, in turn; the control server is at the first one's address.
    """

    def __init__(
        self,
        *,
        threads_per_worker: int,
        python_path: Sequence[str] = (),
        placements: Sequence[HostPlacement] = (HostPlacement(),),
    ) -> None:
        self._threads = threads_per_worker
        self._python_path = list(python_path)
        self._placements = tuple(placements)

    def control(self, job: TrainJob, *, world_size: int, listener: Follow) -> ControlServer:
        """A control server here, on the loopback interface or the first placement's."""
        return control_here(Interface(self._placements[0].address), job, world_size=world_size, listener=listener)

    def slots(self) -> int:
        """Workers that have cores of their own."""
        return max(1, len(os.sched_getaffinity(0)) // self._threads)

    def figures(self) -> list[ExecutorFigures]:
        """None: there is no cluster."""
        return []

    def run(self, job: TrainJob, *, world_size: int, control: ControlServer) -> None:
        """Run one attempt to its end.

        Raises:
            Ts4sError: the first failure that the control server heard of.
            WorkerLostError: if a worker ended without reporting a failure.
        """
        workers: list[_Process] = []
        try:
            for rank in range(world_size):
                workers.append(self._start(job, rank=rank, world_size=world_size, control=control))
            _wait(workers, control)
        finally:
            for worker in workers:
                worker.kill()

    def _start(self, job: TrainJob, *, rank: int, world_size: int, control: ControlServer) -> _Process:
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
        environment["PYTHONPATH"] = os.pathsep.join([_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        placement = self._placements[rank % len(self._placements)]
        job_line = {
            "job": job.to_wire(),
            "control": control.address.to_wire(),
            "rank": rank,
            "world_size": world_size,
            "parent_pid": os.getpid(),
            "python_path": self._python_path,
            "address": placement.address,
        }
        return _Process(rank, json.dumps(job_line), environment, prefix=placement.prefix)


class _Process:
    """One worker process and the last lines it wrote."""

    def __init__(self, rank: int, job_line: str, environment: dict[str, str], *, prefix: Sequence[str] = ()) -> None:
        self.rank = rank
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        # A session of its own: Ctrl-C is for the parent, which then ends its workers.
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", "ts4s_core.training.worker.local_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"worker-{rank}-log", daemon=True)
        self._reader.start()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(job_line + "\n")
            self._process.stdin.close()
        except BrokenPipeError:
            log.debug("worker %d ended before it read its job", rank)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(timeout=_GRACE_S)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.last_lines.append(line.rstrip())
                log.debug("%s", line.rstrip())  # the driver hears the same by the control channel


def _wait(workers: list[_Process], control: ControlServer) -> None:
    while True:
        codes = [worker.poll() for worker in workers]
        if all(code == 0 for code in codes) and control.failure is None:
            return
        if control.failed.is_set() or any(code not in (None, 0) for code in codes):
            break
        time.sleep(_POLL_S)
    # The worker's own words come over the control channel, and may be a moment behind its exit.
    control.failed.wait(_GRACE_S)
    _let_end(workers)
    dead = next((worker for worker in workers if worker.poll() not in (None, 0)), workers[0])
    raise control.failure or _lost(dead)


def _let_end(workers: list[_Process]) -> None:
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_S)


def _lost(worker: _Process) -> Ts4sError:
    said = worker.last_lines[-1] if worker.last_lines else "it said nothing"
    code = worker.poll()
    # A code of its own is an error that it raised before it could tell it; a signal comes from outside.
    kind = WorkerFailedError if code is not None and code > 0 and code != ABORTED else WorkerLostError
    return kind(f"Worker {worker.rank} (pid {worker.pid}) ended with code {code}: {said}")
