"""The state of ``ts4s stack``: a file that names the processes it started, and a mark by which all of them are found.

The mark is a random word in the environment of every process of a stack, which whatever they start inherits. So a process
number that was given to another program since is never taken for one of ours, and what a crashed part left is found too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ts4s_core.errors import Ts4sError
from ts4s_core.processes import is_living

#: Not a ``TS4S_`` name: those are settings.
MARK = "STACK_OF_TS4S"
STATE_FILE, LOCK_FILE = "state.json", "lock"
GRACE_S = 10.0
_KILL_LIMIT_S = 10.0
_POLL_S = 0.1


class StackError(Ts4sError):
    """A part of the stack did not start, or does not run."""


@dataclass
class Service:
    """One process of a stack.

    Attributes:
        name: what it is.
        pid: its process number.
        started: when it started, in seconds since 1970.
        log: its log file.
        address: where it answers, if it does.
    """

    name: str
    pid: int
    started: float
    log: str
    address: str | None = None


@dataclass
class StackState:
    """The content of the state file.

    Attributes:
        mark: this stack's random word.
        services: what was started, in this order.
    """

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    services: list[Service] = field(default_factory=list)

    def service(self, name: str) -> Service:
        """A service by its name."""
        return next(service for service in self.services if service.name == name)

    def write(self, folder: Path) -> None:
        """Put it into a folder, whole or not at all."""
        part = folder / f"{STATE_FILE}.part"
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(folder / STATE_FILE)


def read_state(folder: Path) -> StackState | None:
    """The state in a folder, or None where no stack was started.

    Raises:
        StackError: if the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return StackState(found["mark"], [Service(**service) for service in found["services"]])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StackError(
            f"the stack's state in {folder / STATE_FILE} cannot be read: {exc}. End its processes by hand "
            f"(they have {MARK} in their environment) and delete the file"
        ) from exc


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a stack's folder: one ``up`` or ``down`` at a time.

    Raises:
        StackError: if another command holds it.
    """
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StackError(f"another ts4s stack command is at work in {folder}: wait until it has ended") from exc
        yield


def is_alive(service: Service, mark: str) -> bool:
    """Whether a service's process still runs, and is the one that was started."""
    try:
        process = psutil.Process(service.pid)
        return is_living(process) and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def processes_of(mark: str) -> list[psutil.Process]:
    """Every living process of a stack, also those that its services started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and is_living(process):
                found.append(process)
    return found


def end(state: StackState, *, first: str) -> list[int]:
    """End every process of a stack.

    Args:
        state: the stack.
        first: the service that is asked to end before the others, while they still answer.

    Returns:
        The processes that are still there (uninterruptible ones).
    """
    early = [service for service in state.services if service.name == first]
    late = [service for service in reversed(state.services) if service.name != first]
    for services in (early, late):
        _ask(services, state.mark)
    deadline = time.monotonic() + _KILL_LIMIT_S
    while (left := processes_of(state.mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_POLL_S)
    return [process.pid for process in left]


def _ask(services: Iterable[Service], mark: str) -> None:
    """SIGTERM, and up to 10 s to follow it."""
    asked = [service for service in services if is_alive(service, mark)]
    for service in asked:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(service.pid).terminate()
    deadline = time.monotonic() + GRACE_S
    while any(is_alive(service, mark) for service in asked) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
