"""The driver's end of the control channel: who is alive, how far they are, what must be said to all.

Workers connect over TCP and TLS: they know the server by its certificate's fingerprint, the server knows them by the
attempt's secret. Both travel with the job; what is not to be read on the way there (the store's keys) comes with the
server's first answer. Messages are JSON, one object a line.

Both ends beat. The server notices a rank that falls silent (stopped, or its host gone), one whose connection ends (dead), one
that takes no messages, and one that reports an error; the first of these fails the attempt: every other worker is told to
abort. A worker whose driver is gone sees its connection end or its beats stop, and exits.

Small values that all ranks must know (versions, ports, entries of a checkpoint) are gathered here too, so that no other
rendezvous is needed. Nothing here knows of Spark or of the driver: whichever process makes a server says where it is.
"""

from __future__ import annotations

import functools
import hmac
import logging
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ts4s_core.errors import TrainingError, Ts4sError, WorkerLostError
from ts4s_core.sockets import HANDSHAKE_LIMIT_S, MAX_PENDING, Listener, RejectedError, Serve, set_silence_limit
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.channel import Channel, beat_every_s
from ts4s_core.training.control.identity import new_identity
from ts4s_core.training.control.messages import (
    MAX_HELLO_BYTES,
    Abort,
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
    Progressing,
    Warned,
    Welcome,
    encoded,
    from_worker,
    hello_of,
)

__all__ = ["ControlAddress", "ControlServer", "WorkerInfo"]

log = logging.getLogger(__name__)

#: Longest time until every rank has connected: processes start, import torch, or wait for a slot.
CONNECT_LIMIT_S = 300.0
_WATCH_EVERY_S = 0.2
#: Time that a worker has to receive an abort, and a closing server to send its last messages.
_LAST_WORDS_S = 1.0

Follow = Callable[[int, Progressing], None]


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that has connected."""

    rank: int
    host: str
    pid: int
    address: str

    def __str__(self) -> str:
        return f"Worker {self.rank} on {self.host} (pid {self.pid})"


class Witness(Protocol):
    """Who is told what a server's own process would otherwise log, or keep."""

    def joined(self, worker: WorkerInfo) -> None:
        """A worker has connected."""
        ...

    def said(self, level: int, text: str) -> None:
        """A worker's log record, with its level as in :mod:`logging`."""
        ...

    def failing(self, error: Ts4sError) -> None:
        """The attempt fails; workers, who may share this process, are told to abort when this returns."""
        ...


class _Log:
    """The witness of a server in the driver: its log."""

    def joined(self, worker: WorkerInfo) -> None:
        """Known already."""

    def said(self, level: int, text: str) -> None:
        """Into the log."""
        log.log(level, "%s", text)

    def failing(self, error: Ts4sError) -> None:
        """Known already."""


class _Worker:
    """A worker's connection, and what is still to be said on it: nobody waits for a worker that does not listen."""

    def __init__(self, info: WorkerInfo, channel: Channel, first: Welcome) -> None:
        self.info = info
        self.channel = channel
        self.done = False
        self.sender: threading.Thread | None = None
        self._timeout_s = first.timeout_s
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.tell(encoded(first))

    def tell(self, line: bytes | None) -> None:
        """Send a line when those before it are sent; None: no more."""
        self._lines.put(line)

    def start_sending(self, on_stuck: Callable[[str], None]) -> None:
        self.sender = threading.Thread(target=self._send, args=(on_stuck,), name="control-sender", daemon=True)
        self.sender.start()

    def _send(self, on_stuck: Callable[[str], None]) -> None:
        beat, every_s = encoded(DriverBeat()), beat_every_s(self._timeout_s)
        while True:
            try:
                line = self._lines.get(timeout=every_s)
            except queue.Empty:
                line = beat
            if line is None:
                return
            try:
                self.channel.send(line, deadline=time.monotonic() + self._timeout_s)
            except TimeoutError:
                on_stuck(f"took no message for {self._timeout_s:g} s")
                return
            except OSError as exc:  # the thread that reads says so, after what the worker said last
                log.debug("%s cannot be sent anything: %s", self.info, exc)
                return


class ControlServer:
    """Listens for the workers of one attempt; a context manager.

    Args:
        host: a name or an address, IPv4 or IPv6, that workers reach it by.
        bind: the interface to bind to, where that is another.
        world_size: number of ranks.
        timeout_s: longest silence of a rank, and of the server to a rank.
        listener: called with (rank, message) for every message that is not the channel's own: metrics, events.
        witness: told what is otherwise logged here.
        store_secrets: the store's secrets, sent to workers over the encrypted channel.

    Attributes:
        address: for the workers.
        failure: the first failure, if there was one.
        failed: set with it.

    Raises:
        TrainingError: if it cannot listen there.
    """

    def __init__(
        self,
        host: str,
        *,
        world_size: int,
        timeout_s: float,
        listener: Follow,
        bind: str = "",
        witness: Witness | None = None,
        store_secrets: Mapping[str, str] | None = None,
        connect_limit_s: float = CONNECT_LIMIT_S,
    ) -> None:
        self.failure: Ts4sError | None = None
        self.failed = threading.Event()
        self.world_size = world_size
        self._timeout_s = timeout_s
        self._follow = listener
        self._witness: Witness = witness or _Log()
        self._welcome = Welcome(timeout_s=timeout_s, store_secrets=dict(store_secrets or {}))
        self._connect_deadline = time.monotonic() + max(connect_limit_s, timeout_s)
        self._lock = threading.RLock()
        self._workers: dict[int, _Worker] = {}
        self._gathers: dict[str, dict[int, Any]] = {}
        self._closing = False
        self._identity = new_identity()
        try:
            self._listener = Listener(
                bind or host, name="control", admit=self._admit, max_pending=max(MAX_PENDING, 2 * world_size)
            )
        except OSError as exc:
            raise TrainingError(
                f"The control server cannot listen on {bind or host}: {exc}. Give an interface of this host: "
                "spark.driver.bindAddress, or spark.driver.host"
            ) from exc
        self.address = ControlAddress(host, self._listener.port, secrets.token_hex(32), self._identity.fingerprint)
        threading.Thread(target=self._watch, name="control-watch", daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether every rank said that it is done."""
        with self._lock:
            return len(self._workers) == self.world_size and all(worker.done for worker in self._workers.values())

    def workers(self) -> dict[int, WorkerInfo]:
        """The workers that have connected, by rank."""
        return {worker.info.rank: worker.info for worker in self._connected()}

    def fail(self, error: Ts4sError) -> None:
        """Fail the attempt, unless it has failed or ended before: tell every worker to abort. Waits for none of them."""
        with self._lock:
            if self.failure is not None or self._closing or self.finished:
                return
            self.failure = error
        self._witness.failing(error)
        self.failed.set()
        self._tell_all(encoded(Abort()))

    def close(self) -> None:
        """End: workers that are still there exit."""
        with self._lock:
            self._closing = True
        deadline = time.monotonic() + _LAST_WORDS_S
        self._tell_all(None)
        for worker in self._connected():
            if worker.sender is not None:
                worker.sender.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _connected(self) -> list[_Worker]:
        with self._lock:
            return list(self._workers.values())

    def _tell_all(self, line: bytes | None) -> None:
        for worker in self._connected():
            worker.tell(line)

    def _admit(self, connection: socket.socket, peer: str) -> Serve:
        set_silence_limit(connection, self._timeout_s)
        deadline = time.monotonic() + HANDSHAKE_LIMIT_S
        channel = Channel(connection, self._identity.context, server_side=True, deadline=deadline)
        hello = hello_of(channel.receive(limit_bytes=MAX_HELLO_BYTES, deadline=deadline))
        if not hmac.compare_digest(hello.secret.encode(), self.address.secret.encode()):
            raise RejectedError("it does not know the secret")
        return functools.partial(self._serve, channel, hello, peer)

    def _serve(self, channel: Channel, hello: Hello, peer: str) -> None:
        worker = self._register(channel, hello, peer)
        if worker is None:
            channel.send(encoded(Abort()), deadline=time.monotonic() + _LAST_WORDS_S)
            return
        info = worker.info
        worker.start_sending(lambda why: self.fail(WorkerLostError(f"{info} {why}")))
        why = "its connection ended"
        try:
            while line := channel.receive():
                self._handle(worker, from_worker(line))
        except (OSError, ValueError) as exc:
            log.debug("control connection of %s broke: %s", info, exc)
            why = f"its connection broke ({exc})" if isinstance(exc, ValueError) else why
        finally:
            worker.tell(None)
            if not worker.done:
                self.fail(WorkerLostError(f"{info} died: {why}"))

    def _register(self, channel: Channel, hello: Hello, peer: str) -> _Worker | None:
        info = WorkerInfo(hello.rank, hello.host, hello.pid, hello.address)
        worker = _Worker(info, channel, self._welcome)
        with self._lock:
            if info.rank in self._workers or not 0 <= info.rank < self.world_size or self._closing or self.failure:
                log.warning("rank %d from %s came twice or too late and was turned away", info.rank, peer)
                return None
            self._workers[info.rank] = worker
        self._witness.joined(info)
        log.info("worker %d of %d on %s is there (pid %d)", info.rank, self.world_size, info.host, info.pid)
        return worker

    def _handle(self, worker: _Worker, message: FromWorker) -> None:
        info = worker.info
        match message:
            case Beat():
                pass
            case Gather():
                self._gather(info.rank, message.key, message.value)
            case Failed():
                self.fail(message.raised())
            case Warned():
                self._witness.said(logging.WARNING, f"worker {info.rank} on {info.host}: {message.message}")
            case Note():
                self._witness.said(logging.INFO, f"worker {info.rank} on {info.host}: {message.message}")
            case Done():
                worker.tell(encoded(Bye()))
                worker.done = True
            case _:
                self._follow(info.rank, message)

    def _gather(self, rank: int, key: str, value: Any) -> None:
        with self._lock:
            values = self._gathers.setdefault(key, {})
            values[rank] = value
            if len(values) < self.world_size:
                return
            del self._gathers[key]
        try:
            self._tell_all(encoded(Gathered(key=key, values=[values[rank] for rank in range(self.world_size)])))
        except TrainingError as exc:
            self.fail(exc)

    def _watch(self) -> None:
        while not self._closing and not self.failed.wait(_WATCH_EVERY_S):
            now = time.monotonic()
            workers = self._connected()
            for worker in workers:
                silent_s = now - worker.channel.heard
                if not worker.done and silent_s > self._timeout_s:
                    expected = f"expected a sign of life within train.timeout_s {self._timeout_s:g}"
                    self.fail(WorkerLostError(f"{worker.info} was silent for {silent_s:.0f} s: {expected}"))
            if len(workers) < self.world_size and now > self._connect_deadline:
                missing = sorted(set(range(self.world_size)) - {worker.info.rank for worker in workers})
                self.fail(
                    WorkerLostError(f"Workers {missing} did not report in time: expected {self.world_size}, got {len(workers)}")
                )
        if self.failed.is_set():
            time.sleep(_LAST_WORDS_S)
            for worker in self._connected():  # whoever did not listen to its abort sees its connection end
                worker.channel.close()
