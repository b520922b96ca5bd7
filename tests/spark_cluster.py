"""A real Spark standalone cluster on this host: a master and workers as processes of their own, from pyspark's package.

    with SparkCluster(folder, workers=2) as cluster:
        settings = {"spark": {"master": cluster.url, "conf": cluster.conf}}

Every process ends with the one that made the cluster, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import psutil
from supervisor import supervised

from ts4s_core.processes import is_living, kill_tree
from ts4s_core.spark.session.standalone import Daemon, has_registered, master_daemon, master_url, worker_daemon

START_LIMIT_S = 90.0
_POLL_S = 0.05


class SparkCluster:
    """A standalone master and its workers; a context manager.

    Args:
        folder: for logs and whatever workers and executors write.
        workers: worker processes, each of which runs one executor an application.
        cores: cores of a worker.
        environ: variables beside this process's own, for every process of the cluster.

    Attributes:
        url: ``spark://HOST:PORT``.
        conf: Spark settings of an application that is to run here, as ``KEY=VALUE``.
    """

    def __init__(self, folder: Path, *, workers: int = 2, cores: int = 1, environ: Mapping[str, str] | None = None) -> None:
        self.url = ""
        self.conf = [
            "spark.driver.host=127.0.0.1",
            "spark.driver.bindAddress=127.0.0.1",
            "spark.executor.memory=512m",
            f"spark.executor.cores={cores}",
        ]
        self._folder = folder
        self._count = workers
        self._cores = cores
        self._environ = dict(environ or {})
        self._master: subprocess.Popen[bytes] | None = None
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._started = 0

    def __enter__(self) -> SparkCluster:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._master, log = self._start("master", master_daemon(self._folder / "master", environ=os.environ | self._environ))
            self.url = _wait_for(master_url, log, self._master)
            for number in range(self._count):
                self.start_worker(number)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start_worker(self, number: int) -> None:
        """Start a worker, or start it again after :meth:`lose_worker`."""
        folder = self._folder / f"worker-{number}"
        environ = os.environ | self._environ
        daemon = worker_daemon(folder, master=self.url, cores=self._cores, memory="1g", environ=environ)
        self._workers[number], log = self._start("worker", daemon)
        _wait_for(has_registered, log, self._workers[number])

    def lose_worker(self, number: int) -> None:
        """Kill a worker with all that it started, as if its machine were gone."""
        process = self._workers.pop(number)
        kill_tree(process.pid)
        process.wait()

    def missing_workers(self) -> list[int]:
        """Workers that were lost, or died."""
        return [
            number for number in range(self._count) if number not in self._workers or self._workers[number].poll() is not None
        ]

    def worker_of(self, executor: int) -> int:
        """The worker that started an executor.

        Args:
            executor: the executor JVM's process id.
        """
        above = {process.pid for process in psutil.Process(executor).parents()}
        return next(number for number, process in self._workers.items() if process.pid in above)

    def pids(self) -> set[int]:
        """Master and workers, without executors and what they started."""
        found: set[int] = set()
        for process in [self._master, *self._workers.values()]:
            if process is not None and process.poll() is None:
                found |= {process.pid, *(child.pid for child in psutil.Process(process.pid).children())}
        return found

    def executors(self) -> list[psutil.Process]:
        """Executor JVMs."""
        found = []
        for process in self._workers.values():
            if process.poll() is None:
                below = psutil.Process(process.pid).children(recursive=True)
                found += [child for child in below if is_living(child) and _is_executor(child)]
        return found

    def stop(self) -> None:
        """End everything."""
        for process in [*self._workers.values(), self._master]:
            if process is not None:
                kill_tree(process.pid)
                process.wait()
        self._workers.clear()

    def _start(self, kind: str, daemon: Daemon) -> tuple[subprocess.Popen[bytes], Path]:
        self._started += 1
        log = self._folder / f"{self._started:02d}-{kind}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                supervised(daemon.command),
                stdout=output,
                stderr=output,
                env=daemon.environment,
                cwd=self._folder,
                start_new_session=True,
            )
        return process, log


def _is_executor(process: psutil.Process) -> bool:
    try:
        return any("CoarseGrainedExecutorBackend" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _wait_for(said: Callable[[str], str | bool | None], log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        found = said(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return str(found)
        time.sleep(_POLL_S)
    raise RuntimeError(f"{log.name}: no {said.__name__} in {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
