"""Processes that end with their parent, and the end of whole process trees.

A process learns of its parent's death in two ways, because neither is enough alone:

- a thread that polls ``getppid``: works on every POSIX system, but not while native code holds the interpreter lock;
- Linux's parent death signal: cannot be held up, but is sent when the *thread* that started the process ends.
  A process that asks for it must be started by a thread that outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import psutil

POLL_S = 0.5
TERMINATE_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int | None = None, *, on_death: Callable[[], None] | None = None) -> None:
    """End this process when its parent dies.

    Args:
        parent_pid: the process to live with, which must be this process's parent; default: the parent at the time of the call.
            Give it where the parent could already be dead by now.
        on_death: called in a thread instead of ending at once; it must end the process itself. Without it the process is
            killed, by the kernel too on Linux, so it must have been started by a thread that outlives it.
    """
    parent = os.getppid() if parent_pid is None else parent_pid
    end = _kill_self if on_death is None else on_death
    if on_death is None:
        set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        end()
        return
    threading.Thread(target=_watch_parent, args=(parent, end), name="die-with-parent", daemon=True).start()


def _watch_parent(parent_pid: int, end: Callable[[], None]) -> None:
    while os.getppid() == parent_pid:
        time.sleep(POLL_S)
    end()


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def set_death_signal(number: int) -> None:
    """Let the kernel send this process a signal when the thread that started it ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def kill_tree(pid: int, *, timeout_s: float = TERMINATE_GRACE_S) -> list[int]:
    """Kill a process, all its descendants, and, where it leads a session, everything in that session.

    The session matters: a descendant whose own parent died belongs to init, and only the session still names it.
    A dead leader is allowed as long as nobody has waited for it (its number is still its own then).
    The calling process is spared, so that it can end what it started.

    Args:
        pid: the root of the tree.
        timeout_s: how long to wait for the killed processes to be gone.

    Returns:
        The processes that are still there after ``timeout_s`` (uninterruptible ones).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        living = _tree_of(pid)
        if not living or time.monotonic() > deadline:
            return [process.pid for process in living]
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)


def _tree_of(pid: int) -> list[psutil.Process]:
    """Living members of a tree and of the session that its root leads; never this process itself."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = {process.pid: process for process in [root, *root.children(recursive=True)]}
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == pid:
                found[process.pid] = process
    found.pop(os.getpid(), None)
    return [process for process in found.values() if is_living(process)]


def is_living(process: psutil.Process) -> bool:
    """Whether a process still runs (a zombie does not)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def has_died(pid: int) -> bool:
    """Whether a child has ended, without waiting for it: its number, and that of its session, stays its own."""
    try:
        return not is_living(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def give_back_memory() -> None:
    """Give memory that is no longer used back to the system: Spark keeps a worker's process for later tasks, of anybody."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)
