"""The driver's end of the control channel: who is alive, how far they are, what must be said to all.

Workers connect over TCP and speak JSON, one object a line; the first line carries the attempt's secret. A worker beats
every second. The driver notices a rank that falls silent (stopped, or its host gone), one whose connection ends (dead),
and one that reports an error; the first of these fails the attempt: every other worker is told to abort. A worker whose
driver is gone sees its connection end, and exits.

Small values that all ranks must know (versions, ports, entries of a checkpoint) are gathered here too, so that no other
rendezvous is needed.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.errors import Ts4sError, WorkerLostError
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.messages import (
    Abort,
    Beat,
    Bye,
    Done,
    Failed,
    FromDriver,
    FromWorker,
    Gather,
    Gathered,
    Note,
    Progressing,
    Warned,
    encoded,
    from_worker,
    hello_of,
)

__all__ = ["ControlAddress", "ControlServer", "WorkerInfo"]

log = logging.getLogger(__name__)

#: Longest line that is read: a gathered checkpoint entry, some thousand metric rows.
MAX_LINE_BYTES = 64 * 2**20
#: Longest time until every rank has connected: processes start, import torch, or wait for a slot.
CONNECT_LIMIT_S = 300.0
_WATCH_EVERY_S = 0.2
_HANDSHAKE_LIMIT_S = 10.0

Listener = Callable[[int, Progressing], None]


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that has connected."""

    rank: int
    host: str
    pid: int
    address: str


@dataclass
class _Worker:
    info: WorkerInfo
    connection: socket.socket
    heard: float
    done: bool = False
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: FromDriver) -> None:
        data = encoded(message)
        with self.sending:
            self.connection.sendall(data)


class ControlServer:
    """Listens for the workers of one attempt; a context manager.

    Args:
        host: interface to bind to.
        world_size: number of ranks.
        timeout_s: longest silence of a rank.
        listener: called with (rank, message) for every message that is not the channel's own: metrics, events.

    Attributes:
        address: for the workers.
        failure: the first failure, if there was one.
        failed: set with it.
    """

    def __init__(
        self,
        host: str,
        *,
        world_size: int,
        timeout_s: float,
        listener: Listener,
        connect_limit_s: float = CONNECT_LIMIT_S,
    ) -> None:
        self.failure: Ts4sError | None = None
        self.failed = threading.Event()
        self.world_size = world_size
        self._timeout_s = timeout_s
        self._listener = listener
        self._connect_deadline = time.monotonic() + max(connect_limit_s, timeout_s)
        self._lock = threading.RLock()
        self._workers: dict[int, _Worker] = {}
        self._gathers: dict[str, dict[int, Any]] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._closing = False
        self._server = socket.create_server((host, 0), backlog=max(16, world_size))
        self.address = ControlAddress(host, self._server.getsockname()[1], secrets.token_hex(32))
        for target in (self._accept, self._watch):
            threading.Thread(target=target, name=f"control-{target.__name__.strip('_')}", daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether every rank said that it is done."""
        with self._lock:
            return len(self._workers) == self.world_size and all(worker.done for worker in self._workers.values())

    def workers(self) -> dict[int, WorkerInfo]:
        """The workers that have connected, by rank."""
        with self._lock:
            return {rank: worker.info for rank, worker in self._workers.items()}

    def on_failure(self, callback: Callable[[], None]) -> None:
        """Call back once, from a thread of the server, when the attempt fails (at once if it has)."""
        with self._lock:
            if self.failure is None:
                self._callbacks.append(callback)
                return
        callback()

    def fail(self, error: Ts4sError) -> None:
        """Fail the attempt, unless it has failed or ended before: tell every worker to abort."""
        with self._lock:
            if self.failure is not None or self._closing or self.finished:
                return
            self.failure = error
            callbacks, self._callbacks = self._callbacks, []
            workers = list(self._workers.values())
        self.failed.set()
        for worker in workers:
            try:
                worker.connection.settimeout(1.0)
                worker.send(Abort())
            except OSError:
                log.debug("rank %d could not be told to abort: its connection is gone", worker.info.rank)
        for callback in callbacks:
            callback()

    def close(self) -> None:
        """End: workers that are still there exit."""
        with self._lock:
            self._closing = True
            workers = list(self._workers.values())
        # Closing alone does not wake a thread that waits in accept().
        for connection in [self._server, *(worker.connection for worker in workers)]:
            _shut(connection)

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer[0]), name="control-worker", daemon=True).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        worker: _Worker | None = None
        try:
            connection.settimeout(_HANDSHAKE_LIMIT_S)
            with connection.makefile("rb") as lines:
                worker = self._admit(connection, peer, lines.readline(65_536))
                if worker is None:
                    return
                connection.settimeout(None)
                while line := lines.readline(MAX_LINE_BYTES):
                    self._handle(worker, from_worker(line))
        except (OSError, ValueError) as exc:
            log.debug("control connection of %s ended: %s", peer, exc)
        finally:
            if worker is not None and not worker.done:
                info = worker.info
                self.fail(WorkerLostError(f"Worker {info.rank} on {info.host} (pid {info.pid}) died: its connection ended"))
            if worker is None:
                _shut(connection)

    def _admit(self, connection: socket.socket, peer: str, line: bytes) -> _Worker | None:
        hello = hello_of(line)
        if not hmac.compare_digest(hello.secret.encode(), self.address.secret.encode()):
            log.warning("a stranger at %s was turned away from the control channel", peer)
            return None
        info = WorkerInfo(hello.rank, hello.host, hello.pid, hello.address)
        worker = _Worker(info, connection, time.monotonic())
        with self._lock:
            if info.rank in self._workers or not 0 <= info.rank < self.world_size or self._closing or self.failure:
                log.warning("rank %d from %s came twice or too late and was turned away", info.rank, peer)
                return None
            self._workers[info.rank] = worker
        log.info("worker %d of %d on %s is there (pid %d)", info.rank, self.world_size, info.host, info.pid)
        return worker

    def _handle(self, worker: _Worker, message: FromWorker) -> None:
        worker.heard = time.monotonic()
        info = worker.info
        match message:
            case Beat():
                pass
            case Gather():
                self._gather(info.rank, message.key, message.value)
            case Failed():
                self.fail(message.raised())
            case Warned():
                log.warning("worker %d on %s: %s", info.rank, info.host, message.message)
            case Note():
                log.info("worker %d on %s: %s", info.rank, info.host, message.message)
            case Done():
                worker.done = True
                worker.send(Bye())
            case _:
                self._listener(info.rank, message)

    def _gather(self, rank: int, key: str, value: Any) -> None:
        with self._lock:
            values = self._gathers.setdefault(key, {})
            values[rank] = value
            if len(values) < self.world_size:
                return
            del self._gathers[key]
            workers = list(self._workers.values())
        answer = Gathered(key=key, values=[values[rank] for rank in range(self.world_size)])
        for worker in workers:
            worker.send(answer)

    def _watch(self) -> None:
        while not self._closing and not self.failed.wait(_WATCH_EVERY_S):
            now = time.monotonic()
            with self._lock:
                workers = list(self._workers.values())
            for worker in workers:
                silent_s = now - worker.heard
                if not worker.done and silent_s > self._timeout_s:
                    info = worker.info
                    self.fail(
                        WorkerLostError(
                            f"Worker {info.rank} on {info.host} (pid {info.pid}) was silent for {silent_s:.0f} s: "
                            f"expected a sign of life within train.timeout_s {self._timeout_s:g}"
                        )
                    )
            if len(workers) < self.world_size and now > self._connect_deadline:
                missing = sorted(set(range(self.world_size)) - {worker.info.rank for worker in workers})
                self.fail(
                    WorkerLostError(f"Workers {missing} did not report in time: expected {self.world_size}, got {len(workers)}")
                )


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a control connection was closed by its peer before")
    connection.close()
