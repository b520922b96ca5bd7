"""Ends of a control channel that do as a test says: workers that never beat, and processes that can be stopped."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.channel import Channel
from ts4s_core.training.control.identity import client_context

LIMIT_S = 20.0


class RawWorker:
    """A worker's connection without its threads."""

    def __init__(self, address: ControlAddress, rank: int, *, secret: str | None = None, **more: Any) -> None:
        connection = socket.create_connection((address.host, address.port), timeout=LIMIT_S)
        self.channel = Channel(connection, client_context(), server_side=False, deadline=time.monotonic() + LIMIT_S)
        hello = {"secret": secret or address.secret, "rank": rank, "host": "elsewhere", "pid": 7, "address": "10.0.0.9"}
        self.say(**hello, **more)

    def say(self, **message: Any) -> None:
        self.channel.send(json.dumps(message).encode() + b"\n", deadline=time.monotonic() + LIMIT_S)

    def hear(self) -> dict[str, Any] | None:
        """The next message that is no beat; None at the end."""
        while line := self.channel.receive(deadline=time.monotonic() + LIMIT_S):
            message = json.loads(line)
            if message["type"] != "beat":
                return dict(message)
        return None

    def __enter__(self) -> RawWorker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.channel.close()


SERVER = """
import resource, sys
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
from ts4s_core.training.control.server import ControlServer
server = ControlServer(sys.argv[3], world_size=2, timeout_s=float(sys.argv[1]), listener=lambda rank, message: None)
print(server.address.to_wire(), flush=True)
server.failed.wait(300)
print(server.failure, flush=True)
"""
WORKER = """
import sys, time
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient
from ts4s_core.training.control.messages import Gather
client = ControlClient(ControlAddress.from_wire(sys.stdin.readline()), rank=int(sys.argv[1]), own_address="127.0.0.1")
client.send(Gather(key="k", value="x" * int(sys.argv[2])))
print("in", flush=True)
time.sleep(300)
"""


@contextlib.contextmanager
def process(code: str, *words: object, within: tuple[str, ...] = (), said: str = "") -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed at the end."""
    command = [*within, sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            if said:
                assert running.stdin is not None
                running.stdin.write(said + "\n")
                running.stdin.flush()
            yield running
        finally:
            running.kill()


def line_of(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


@contextlib.contextmanager
def server_process(
    timeout_s: float, *, descriptors: int = 0, host: str = "127.0.0.1", within: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], ControlAddress]]:
    """A driver that waits for two workers."""
    with process(SERVER, timeout_s, descriptors, host, within=within) as running:
        yield running, ControlAddress.from_wire(line_of(running))


@contextlib.contextmanager
def worker_process(
    address: ControlAddress, rank: int, *, brings: int = 0, within: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A worker that has connected, and brought a value of so many characters under ``k``."""
    with process(WORKER, rank, brings, within=within, said=address.to_wire()) as running:
        assert line_of(running) == "in"
        yield running
