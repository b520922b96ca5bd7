"""A worker's end of the control channel."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any, NoReturn

from ts4s_core.errors import Ts4sError, WorkerLostError, one_line
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.messages import (
    Beat,
    Bye,
    Done,
    Failed,
    FromWorker,
    Gather,
    Gathered,
    Hello,
    Note,
    Result,
    Warned,
    WorkerResult,
    encoded,
    from_driver,
)
from ts4s_core.training.control.server import MAX_LINE_BYTES

log = logging.getLogger(__name__)

#: Exit code of a worker that was told to abort, or whose driver is gone.
ABORTED = 70
BEAT_EVERY_S = 1.0
_CONNECT_LIMIT_S = 30.0


class ControlClient:
    """Beats every second from a thread of its own, and ends the process when the driver says so or is gone.

    Attributes:
        step: what the next beat says of the worker's progress.
    """

    def __init__(self, address: ControlAddress, *, rank: int, own_address: str) -> None:
        self.step = 0
        self._gathered: dict[str, list[Any]] = {}
        self._news = threading.Condition()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        try:
            self._connection = socket.create_connection((address.host, address.port), timeout=_CONNECT_LIMIT_S)
        except OSError as exc:
            raise WorkerLostError(f"Rank {rank} cannot reach the driver at {address.host}:{address.port}: {exc}") from exc
        self._connection.settimeout(None)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(Hello(secret=address.secret, rank=rank, host=socket.gethostname(), pid=os.getpid(), address=own_address))
        for target in (self._listen, self._beat):
            threading.Thread(target=target, name=f"control-{target.__name__.strip('_')}", daemon=True).start()

    def send(self, message: Hello | FromWorker) -> None:
        """Send one message; a driver that is gone ends this process."""
        data = encoded(message)
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            if not self._closed.is_set():
                _exit("the driver is gone")

    def gather(self, key: str, value: Any, *, timeout_s: float) -> list[Any]:
        """Everybody's value under a key, in rank order. A key is used once.

        Raises:
            WorkerLostError: if a peer does not bring its value in time.
        """
        self.send(Gather(key=key, value=value))
        with self._news:
            if not self._news.wait_for(lambda: key in self._gathered, timeout=timeout_s):
                raise WorkerLostError(f"Peers did not answer {key!r} within {timeout_s:g} s")
            return self._gathered.pop(key)

    def fail(self, error: Ts4sError) -> None:
        """Tell the driver why this worker ends."""
        self.send(Failed.by(error))

    def done(self, result: WorkerResult, *, timeout_s: float) -> None:
        """Tell the driver that all went well, and close."""
        self.send(Result(result=result))
        self.send(Done())
        if not self._closed.wait(timeout_s):
            raise WorkerLostError(f"The driver did not take the result within {timeout_s:g} s")
        self._connection.close()

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    message = from_driver(line)
                    if isinstance(message, Gathered):
                        with self._news:
                            self._gathered[message.key] = message.values
                            self._news.notify_all()
                    elif isinstance(message, Bye):
                        self._closed.set()
                        return
                    else:
                        _exit("the driver ended the attempt")
        except (OSError, ValueError) as exc:
            _exit(f"the control channel broke: {exc}")
        _exit("the driver is gone")

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_EVERY_S):
            self.send(Beat(step=self.step))


#: What is said of the channel itself cannot go over it, nor what the driver says where it runs in the worker's process.
_NOT_TOLD = (__name__, "ts4s_core.training.control.server")
_KINDS: dict[int, type[Note | Warned]] = {logging.INFO: Note, logging.WARNING: Warned}


class LogToDriver(logging.Handler):
    """Sends a worker's notes and warnings to the driver, whose user sees no worker's own output; errors go by themselves."""

    def __init__(self, client: ControlClient) -> None:
        super().__init__(logging.INFO)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        if record.levelno in _KINDS and record.name not in _NOT_TOLD:
            self._client.send(_KINDS[record.levelno](message=one_line(record.getMessage())))


def _exit(reason: str) -> NoReturn:
    log.error("worker exits: %s", reason)
    # At once and from any thread: the main thread may hang in a kernel or in a wait for a dead peer.
    os._exit(ABORTED)
