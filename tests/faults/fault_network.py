"""What is done to a run's connections: strangers that crowd its ports, and a network that carries nothing any more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psutil

#: Connections that are kept open at a time, and how often each gets a byte.
CROWD, DRIP_S = 200, 0.5
_CLONE_NEWNET = 0x4000_0000

Result = TypeVar("Result")


class Strangers:
    """Opens connections to the listening ports of processes as fast as it can, and keeps the newest alive byte by byte."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.came = 0
        self._ports = sorted({port for pid in pids for port in listening(pid)})
        self._open: deque[socket.socket] = deque()
        self._ended = threading.Event()
        # A thread a port: one that is full, and lets a stranger wait, keeps none from the others.
        self._threads = [threading.Thread(target=self._come, args=(port,), name="strangers", daemon=True) for port in self._ports]
        self._threads.append(threading.Thread(target=self._drip, name="strangers", daemon=True))

    def start(self) -> list[int]:
        """Begin; the ports that are crowded."""
        for thread in self._threads:
            thread.start()
        return self._ports

    def end(self) -> None:
        """All leave."""
        self._ended.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(10)
        for stranger in self._open:
            stranger.close()

    def _come(self, port: int) -> None:
        while not self._ended.wait(0.002):
            with contextlib.suppress(OSError):  # the process may have ended
                self._open.append(socket.create_connection(("127.0.0.1", port), timeout=1))
                self.came += 1
            with contextlib.suppress(IndexError):  # another port's thread took the last one too many
                while len(self._open) > CROWD:
                    self._open.popleft().close()

    def _drip(self) -> None:
        while not self._ended.wait(DRIP_S):
            for stranger in list(self._open):
                with contextlib.suppress(OSError):  # turned away
                    stranger.send(b" ")


def listening(pid: int) -> set[int]:
    """Ports of a process that strangers reach."""
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return set()
    return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


def may_make_spaces() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


class Space:
    """A network namespace: processes that are started in it have a loopback of their own, which can be cut."""

    def __init__(self) -> None:
        self._name = f"ts4s-fault-{os.getpid()}"
        self._ip("netns", "add", self._name)
        self.mend()
        # One thread that lives as long as the space: what it starts may be told to end with it.
        self._inside = ThreadPoolExecutor(1, thread_name_prefix="space", initializer=self._enter)

    def run(self, work: Callable[[], Result]) -> Result:
        """Do something in a thread inside."""
        return self._inside.submit(work).result()

    def cut(self) -> None:
        """From now on nothing that is sent arrives, and nobody is told."""
        self._ip("-n", self._name, "link", "set", "lo", "down")

    def mend(self) -> None:
        """All is well again."""
        self._ip("-n", self._name, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove it; whatever ran inside has ended."""
        self._inside.shutdown()
        self._ip("netns", "del", self._name)

    def _enter(self) -> None:
        with open(f"/run/netns/{self._name}", "rb") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)
