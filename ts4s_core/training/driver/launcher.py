"""The interface between the training step and whatever starts its workers."""

from __future__ import annotations

from typing import Protocol

from ts4s_core.sockets import Interface
from ts4s_core.training.control.server import ControlServer
from ts4s_core.training.facts import ExecutorFigures
from ts4s_core.training.job import TrainJob


class Launcher(Protocol):
    """Starts worker processes: plain local ones, or the tasks of a Spark barrier stage."""

    def control_interface(self) -> Interface:
        """Where the control server listens, and how workers reach it."""
        ...

    def slots(self) -> int:
        """Worker slots that are available now; called before every attempt."""
        ...

    def figures(self) -> list[ExecutorFigures]:
        """The cluster's figures of each executor, for the statistics after a training."""
        ...

    def run(self, job: TrainJob, *, world_size: int, control: ControlServer) -> None:
        """Start the workers and wait until all have ended; nothing that was started survives the return.

        Raises:
            Ts4sError: ``control.failure`` if that is set, else what the launcher knows of the failure.
        """
        ...
