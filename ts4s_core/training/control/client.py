"""A worker's end of the control channel."""

from __future__ import annotations

import hmac
import logging
import os
import socket
import threading
import time
from typing import Any, NoReturn

from ts4s_core.errors import Ts4sError, WorkerLostError, one_line
from ts4s_core.sockets import HANDSHAKE_LIMIT_S, bare, set_silence_limit, shut
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.channel import Channel, beat_every_s
from ts4s_core.training.control.identity import client_context, fingerprint_of
from ts4s_core.training.control.messages import (
    Beat,
    Bye,
    Done,
    DriverBeat,
    Failed,
    FromWorker,
    Gather,
    Gathered,
    Hello,
    Note,
    Result,
    Warned,
    Welcome,
    WorkerResult,
    encoded,
    from_driver,
)

log = logging.getLogger(__name__)

#: Exit code of a worker that was told to abort, or whose driver is gone.
ABORTED = 70
_CONNECT_LIMIT_S = 30.0
_TRY_AGAIN_S = 0.2


class ControlClient:
    """Beats from a thread of its own, and ends the process when the driver says so, is gone, or is silent for too long.

    Attributes:
        step: what the next beat says of the worker's progress.
        store_secrets: the store's secrets, which the driver sends over this channel alone.

    Raises:
        WorkerLostError: if the driver cannot be reached, or another process answers in its place.
    """

    def __init__(self, address: ControlAddress, *, rank: int, own_address: str) -> None:
        self.step = 0
        self._gathered: dict[str, list[Any]] = {}
        self._news = threading.Condition()
        self._closed = threading.Event()
        hello = Hello(secret=address.secret, rank=rank, host=socket.gethostname(), pid=os.getpid(), address=own_address)
        self._channel, welcome = _met(address, hello)
        self.store_secrets = welcome.store_secrets
        self._timeout_s = welcome.timeout_s
        for target in (self._listen, self._beat):
            threading.Thread(target=target, name=f"control-{target.__name__.strip('_')}", daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Send one message; a driver that is gone, or takes none for ``train.timeout_s``, ends this process.

        Raises:
            TrainingError: if the message is too large.
        """
        self._send(encoded(message), time.monotonic() + self._timeout_s)

    def gather(self, key: str, value: Any, *, timeout_s: float) -> list[Any]:
        """Everybody's value under a key, in rank order. A key is used once.

        Raises:
            TrainingError: if the value is too large.
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
        self._channel.close()

    def _send(self, line: bytes, deadline: float) -> None:
        try:
            self._channel.send(line, deadline=deadline)
        except OSError as exc:
            if not self._closed.is_set():
                _exit("the driver takes no messages" if isinstance(exc, TimeoutError) else "the driver is gone")

    def _listen(self) -> None:
        try:
            while line := self._channel.receive():
                match message := from_driver(line):
                    case DriverBeat():
                        continue
                    case Gathered():
                        with self._news:
                            self._gathered[message.key] = message.values
                            self._news.notify_all()
                    case Bye():
                        self._closed.set()
                        return
                    case _:
                        _exit("the driver ended the attempt")
        except (OSError, ValueError) as exc:
            _exit(f"the control channel broke: {exc}")
        _exit("the driver is gone")

    def _beat(self) -> None:
        every_s = beat_every_s(self._timeout_s)
        grace_s = every_s / 4
        limit_s = self._timeout_s - grace_s
        while not self._closed.wait(min(every_s, max(0.0, limit_s - self._silent_s()))):
            if self._silent_s() >= limit_s:
                # A worker that was itself stopped has signs of life waiting, and reads them in this moment.
                if not self._closed.wait(grace_s) and self._silent_s() >= limit_s:
                    _exit(f"the driver was silent for {self._silent_s():.0f} s, expected a sign of life within {limit_s:.0f} s")
            else:
                self._send(encoded(Beat(step=self.step)), self._channel.heard + self._timeout_s)

    def _silent_s(self) -> float:
        return time.monotonic() - self._channel.heard


def _met(address: ControlAddress, hello: Hello) -> tuple[Channel, Welcome]:
    """The connection to the driver; where strangers crowd its door, more than one try is needed."""
    where = f"{address.host}:{address.port}"
    deadline = time.monotonic() + _CONNECT_LIMIT_S
    while True:
        try:
            return _introduced(address, hello, time.monotonic() + HANDSHAKE_LIMIT_S)
        except (OSError, ValueError) as exc:
            # Refused: nobody listens there any more.
            if isinstance(exc, ConnectionRefusedError) or time.monotonic() + _TRY_AGAIN_S > deadline:
                raise WorkerLostError(f"Rank {hello.rank} cannot reach the driver at {where}: {exc}") from exc
            log.debug("rank %d tries the driver at %s again: %s", hello.rank, where, exc)
        time.sleep(_TRY_AGAIN_S)


def _introduced(address: ControlAddress, hello: Hello, deadline: float) -> tuple[Channel, Welcome]:
    connection = socket.create_connection((bare(address.host), address.port), timeout=HANDSHAKE_LIMIT_S)
    try:
        channel = Channel(connection, client_context(), server_side=False, deadline=deadline)
        if not hmac.compare_digest(fingerprint_of(channel.certificate()), address.fingerprint):
            raise WorkerLostError(f"Who answers at {address.host}:{address.port} is not this run's driver: another certificate")
        channel.send(encoded(hello), deadline=deadline)
        line = channel.receive(deadline=deadline)
        if not line:
            raise ConnectionError("it ended the connection")
        welcome = from_driver(line)
        if not isinstance(welcome, Welcome):
            _exit("the driver ended the attempt")
        set_silence_limit(connection, welcome.timeout_s)
    except BaseException:
        shut(connection)
        raise
    return channel, welcome


#: What is said of the channel itself cannot go over it, nor what the driver says where it runs in the worker's process.
_KEPT_LOCAL = (__name__, "ts4s_core.training.control.server")
_KINDS: dict[int, type[Note | Warned]] = {logging.INFO: Note, logging.WARNING: Warned}


class LogToDriver(logging.Handler):
    """Sends a worker's notes and warnings to the driver, whose user sees no worker's own output; errors go by themselves."""

    def __init__(self, client: ControlClient) -> None:
        super().__init__(logging.INFO)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        if record.levelno in _KINDS and record.name not in _KEPT_LOCAL:
            self._client.send(_KINDS[record.levelno](message=one_line(record.getMessage())))


def _exit(reason: str) -> NoReturn:
    log.error("worker exits: %s", reason)
    # At once and from any thread: the main thread may hang in a kernel or in a wait for a dead peer.
    os._exit(ABORTED)
