"""The measuring processes, from their parent's side: started together, let go together, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import ts4s_core
from ts4s_core.errors import InputError, Ts4sError, from_wire
from ts4s_core.planning.facts import ProbeFacts, ProbeMessage, ProbeRequest
from ts4s_core.training.job import TrainJob

_BUDGET_S = 6.0
#: Longest time of one measurement, with building the model.
_LIMIT_S = 1_200.0
_PACKAGE_ROOT = str(Path(ts4s_core.__file__).resolve().parents[1])
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(job: TrainJob, *, level: int, memory_bytes: int, python_path: Sequence[str]) -> list[ProbeFacts]:
    """What ``level`` processes find that measure at once.

    Args:
        job: whose steps are measured.
        level: number of processes, each with the threads of a worker and a worker's share of the parts.
        memory_bytes: of a host.
        python_path: folders that the processes import from beside this package.

    Raises:
        Ts4sError: what a process says, or that it ended without a word.
    """
    with ExitStack() as stack:
        probes = [
            stack.enter_context(_Process(job, rank=rank, level=level, memory_bytes=memory_bytes, python_path=python_path))
            for rank in range(level)
        ]
        for probe in probes:
            probe.answer()
        for probe in probes:
            probe.go()
        return [found for probe in probes if (found := probe.answer().found) is not None]


class _Process:
    """A measuring process; a context manager that ends it."""

    def __init__(self, job: TrainJob, *, rank: int, level: int, memory_bytes: int, python_path: Sequence[str]) -> None:
        threads = job.threads_per_worker
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join([_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ts4s_core.planning.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )
        request = ProbeRequest(
            job=job.to_wire(),
            rank=rank,
            world_size=level,
            threads=threads,
            budget_s=_BUDGET_S,
            memory_bytes=memory_bytes,
            parent_pid=os.getpid(),
            python_path=list(python_path),
        )
        self._limit = threading.Timer(_LIMIT_S, self._process.kill)
        self._limit.daemon = True
        self._limit.start()
        self._write(json.dumps(request.to_json()))

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_error: object) -> None:
        self._limit.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def go(self) -> None:
        """Let it measure."""
        self._write("go")

    def answer(self) -> ProbeMessage:
        """Its next line.

        Raises:
            Ts4sError: what the process says, or that it ended without a word.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            if code == -signal.SIGKILL:
                raise InputError(
                    f"Measuring was killed: expected it to fit into this machine's memory and to end within {_LIMIT_S:g} s. "
                    "Lower train.batch_size or model.max_length, or plan on a larger machine"
                )
            raise Ts4sError(f"The measuring process ended with code {code}: run it again with --debug")
        message = ProbeMessage.model_validate_json(line)
        if message.error is not None:
            raise from_wire(message.error)
        return message

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended: its answer says why
