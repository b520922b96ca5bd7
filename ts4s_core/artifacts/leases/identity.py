"""Which process an owner is, and whether it can be told from here that it has ended.

A process is known by the kernel's boot, its pid namespace, its number there, and the clock tick of its start; none of them
depends on a clock that anybody can set. A number says nothing in another namespace or after a reboot, so about such owners
nothing is said at all: whoever waits for one watches whether it renews.
"""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: Places in ``/proc/PID/stat`` after the command's closing parenthesis.
_STATE, _START = 0, 19


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: name of its host, for people.
        boot: the kernel's name for this boot; empty: not known.
        pid_namespace: the kernel's name for the namespace of ``pid``; empty: not known.
        pid: its number.
        start_ticks: clock ticks from the boot to its start.
    """

    host: str
    boot: str
    pid_namespace: str
    pid: int
    start_ticks: int

    @property
    def gone(self) -> bool:
        """Whether it is certain that this process has ended; false where that cannot be told from here."""
        here = this_owner()
        if not (here.boot and here.pid_namespace) or (self.boot, self.pid_namespace) != (here.boot, here.pid_namespace):
            return False
        found = start_ticks(self.pid)
        return found is not None and found != self.start_ticks


def this_owner() -> Owner:
    """This process."""
    return _owner(os.getpid())


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:  # by number: a child that was forked is another owner
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
        if os.readlink(_PROC / "self") != str(pid):
            namespace = ""  # this /proc is another namespace's: its numbers are not ours
    except OSError:
        boot = namespace = ""
    return Owner(socket.gethostname(), boot, namespace, pid, start_ticks(pid) or 0)


def start_ticks(pid: int) -> int | None:
    """When a process of this namespace was started, in clock ticks from the boot; 0 if it has ended, None if that is hidden."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return 0 if fields[_STATE] in "ZX" else int(fields[_START])
    except (FileNotFoundError, ProcessLookupError):
        return None if _answers_signals(pid) else 0
    except (OSError, IndexError, ValueError):
        return None


def _answers_signals(pid: int) -> bool:
    """Whether there is such a process: /proc may hide those of other users (hidepid)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return True
