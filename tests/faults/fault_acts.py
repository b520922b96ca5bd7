"""What is done to runs: signals, and a disk that fills up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

DISK_MIB = 12
HELD_UP_S = 8.0


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk that is soon full. Needs the right to mount."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def may_mount() -> bool:
    """Whether this user may mount a small disk."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk"):
                return True
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False


def fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return ballast


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL, *, wanted: tuple[str, ...] = ("Z", "")) -> list[int]:
    """Signal processes and wait until they are in one of the wanted states (none: gone); those that were hit."""
    hit = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            hit.append(pid)
    deadline = time.monotonic() + 5
    while any(state(pid) not in wanted for pid in hit) and time.monotonic() < deadline:
        time.sleep(0.005)
    return [pid for pid in hit if state(pid) in wanted]


def hold_up(pid: int, seconds: float = HELD_UP_S) -> None:
    """Let a worker stand still for a while, which fails nothing, so that its run lasts."""
    kill([pid], signal.SIGSTOP, wanted=("T",))
    timer = threading.Timer(seconds, kill, ([pid], signal.SIGCONT), {"wanted": ("R", "S", "D", "Z", "")})
    timer.daemon = True
    timer.start()


def state(pid: int) -> str:
    """The kernel's letter for a process's state; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
