"""Classes and functions of the program itself on their way to workers: inside a task's function, as Spark sends any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.artifacts.facts import JsonObject
from ts4s_core.errors import InputError
from ts4s_core.modules.carried import carried, receive
from ts4s_core.process_state import PROCESS
from ts4s_core.spark.execution.barrier_launcher import Task, train_worker


@dataclass(frozen=True)
class CarriedAlong:
    """What a task's function holds of the program, and a hash of it."""

    things: Mapping[str, Any] = field(repr=False)
    sha256: str


def carried_along(paths: Iterable[str]) -> CarriedAlong:
    """What import paths stand for that no worker can import.

    Raises:
        InputError: if Spark cannot send it.
    """
    from pyspark import cloudpickle

    dumps: Any = cloudpickle.dumps
    things = carried(paths)
    hashed = hashlib.sha256()
    for path, thing in sorted(things.items()):
        try:
            hashed.update(path.encode() + dumps(thing))
        except Exception as exc:  # whatever the thing refers to raises
            raise InputError(
                f"{path} cannot be sent to workers: {type(exc).__name__}: {str(exc).partition(chr(10))[0]}. "
                "Leave sessions, locks and open files out of what it refers to, or put it into a .py file of its own"
            ) from exc
    return CarriedAlong(things, hashed.hexdigest())


@dataclass(frozen=True)
class Carrying:
    """The work of a training task that brings what it needs of the program."""

    along: CarriedAlong

    def __call__(self, task: Task) -> JsonObject:
        """Run the worker of a task."""
        from pyspark import BarrierTaskContext

        receive(self.along.things)
        hosts = [info.address.rsplit(":", 1)[0] for info in BarrierTaskContext.get().getTaskInfos()]
        place = hosts[: task.rank].count(hosts[task.rank])
        PROCESS.put("place on this host", (), place)
        return train_worker(task)
