"""The interface between the training step and whatever starts its workers."""

from __future__ import annotations

import threading
from typing import Any, Protocol, Self

from ts4s_core.errors import Ts4sError
from ts4s_core.sockets import Interface
from ts4s_core.training.control.server import ControlServer, Follow, WorkerInfo
from ts4s_core.training.facts import ExecutorFigures
from ts4s_core.training.job import TrainJob


class Control(Protocol):
    """An attempt as it is followed; a context manager.

    Attributes:
        failure: the first failure, if there was one.
        failed: set with it.
    """

    failure: Ts4sError | None
    failed: threading.Event

    @property
    def finished(self) -> bool:
        """Whether every rank's result came."""
        ...

    def workers(self) -> dict[int, WorkerInfo]:
        """The workers that have connected, by rank."""
        ...

    def fail(self, error: Ts4sError) -> None:
        """Fail the attempt, unless it has failed or ended before."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def control_here(interface: Interface, job: TrainJob, *, world_size: int, listener: Follow) -> ControlServer:
    """A control server in this process.

    Raises:
        TrainingError: if it cannot listen on the interface.
    """
    return ControlServer(
        interface.host,
        bind=interface.bind,
        world_size=world_size,
        timeout_s=job.timeout_s,
        listener=listener,
        store_secrets=job.secrets,
    )


class Launcher(Protocol):
    """Starts worker processes: plain local ones, or the tasks of a Spark barrier stage."""

    def control(self, job: TrainJob, *, world_size: int, listener: Follow) -> Control:
        """Where an attempt is followed: a control server here, or what is heard of one in rank 0's process.

        Args:
            job: the attempt, with the store's secrets.
            world_size: number of workers.
            listener: called with (rank, message) for each message that is for whoever follows the training.
        """
        ...

    def slots(self) -> int:
        """Worker slots that are available now; called before every attempt."""
        ...

    def figures(self) -> list[ExecutorFigures]:
        """The cluster's figures of each executor, for the statistics after a training."""
        ...

    def run(self, job: TrainJob, *, world_size: int, control: Any) -> None:
        """Start the workers and wait until all have ended; nothing that was started survives the return.

        Args:
            job: the attempt, without the store's secrets.
            world_size: number of workers.
            control: what :meth:`control` gave.

        Raises:
            Ts4sError: ``control.failure`` if that is set, else what the launcher knows of the failure.
        """
        ...
