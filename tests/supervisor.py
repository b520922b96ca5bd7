"""Runs a server of the tests so that it ends with its parent: ``python supervisor.py PARENT_PID -- COMMAND ...``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import FrameType

from ts4s_core.processes import POLL_S, TERMINATE_GRACE_S, has_died, kill_tree, set_death_signal


def supervised(command: Iterable[str]) -> list[str]:
    """The command line that runs ``command`` under :func:`supervise`, tied to the calling process."""
    return [sys.executable, __file__, str(os.getpid()), "--", *command]


def supervise(parent_pid: int, command: Sequence[str]) -> int:
    """Run a foreign program until it ends, this process receives a signal to end, or the process ``parent_pid`` dies.

    SIGTERM and SIGINT are passed on as SIGTERM; what is left of its tree after a grace of 5 s is killed.

    Returns:
        The program's exit code as a shell gives it (128 + signal).
    """
    ending = threading.Event()

    def _end(_number: int, _frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    # A session of its own: its tree can be found whole even after parts of it were orphaned.
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: set_death_signal(signal.SIGKILL))
    while not has_died(child.pid):
        if os.getppid() != parent_pid or ending.is_set():
            child.terminate()
            deadline = time.monotonic() + TERMINATE_GRACE_S
            while not has_died(child.pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            break
        ending.wait(POLL_S / 5)
    kill_tree(child.pid)
    code = child.wait()
    return 128 - code if code < 0 else code


def _main(arguments: Sequence[str]) -> int:
    if len(arguments) < 3 or not arguments[0].isdigit() or arguments[1] != "--":
        sys.stderr.write("usage: python supervisor.py PARENT_PID -- COMMAND ...\n")
        return 2
    try:
        return supervise(int(arguments[0]), arguments[2:])
    except OSError as exc:
        sys.stderr.write(f"error: {arguments[2]} cannot be started: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
