"""Sockets that anybody on the network can reach: listening, authentication before service, and limits on silence.

A connection is *pending* until it has authenticated. A :class:`Listener` gives each pending connection a thread and one time
limit, keeps a bounded number of them (the oldest is dropped first), and never stops accepting: when descriptors or memory run
out, it drops pending connections, pauses and continues.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

#: Time limit of a handshake, however slowly its bytes arrive.
HANDSHAKE_LIMIT_S = 10.0
#: Largest number of pending connections; fewer if the process may open few files.
MAX_PENDING = 64
#: Rejections within so many seconds of the last logged one are counted, and reported with the next.
_LOG_EVERY_S = 10.0
_PAUSE_S = 0.05
_POLL_EVERY_S = 0.25
_BACKLOG = 1024


@dataclass(frozen=True)
class Interface:
    """Where a server listens, and how its peers name that.

    Attributes:
        host: a name or an address, IPv4 or IPv6, that peers reach it by.
        bind: what it binds to; empty: ``host``.
    """

    host: str
    bind: str = ""

    @property
    def bound(self) -> str:
        """What it binds to."""
        return self.bind or self.host


def bare(host: str) -> str:
    """An address without the brackets that IPv6 has in URLs."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def listen(host: str) -> socket.socket:
    """A listening socket on a free port of an interface, by its name or address, IPv4 or IPv6.

    Raises:
        OSError: if there is no such interface on this host.
    """
    found = socket.getaddrinfo(bare(host), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _type, _protocol, _name, address = found[0]
    return socket.create_server((str(address[0]), 0), family=family, backlog=_BACKLOG)


def set_silence_limit(connection: socket.socket, silence_s: float) -> None:
    """Let the kernel close a connection whose other host acknowledges nothing for ``silence_s`` seconds."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        probe_s = max(1, round(silence_s / 4))
        for option, value in (
            (socket.TCP_KEEPIDLE, probe_s),
            (socket.TCP_KEEPINTVL, probe_s),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, round(silence_s * 1e3)),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def shut(connection: socket.socket) -> None:
    """Close a connection; another thread that waits for it wakes up."""
    with contextlib.suppress(OSError):  # ended by the peer before
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class RejectedError(Exception):
    """A pending connection failed to authenticate."""


#: Serves an authenticated peer until it disconnects.
Serve = Callable[[], None]
#: Called with a pending connection and its peer's address; returns what serves it. Raises RejectedError, OSError or ValueError.
Admit = Callable[[socket.socket, str], Serve]
#: Errors of accept that are about this process or host, not about the peer.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(eq=False)
class _Pending:
    connection: socket.socket
    peer: str
    since: float = field(default_factory=time.monotonic)


class Listener:
    """Accepts connections on one interface until :meth:`close`.

    Args:
        host: interface to bind to.
        name: of the listener, in the log and in the names of its threads.
        admit: authenticates a connection, in a thread of its own. Its result is called in the same thread, and the
            connection is closed when that returns.
        max_pending: largest number of pending connections.
        handshake_limit_s: longest time for ``admit``.

    Attributes:
        port: that it listens on.
    """

    def __init__(
        self,
        host: str,
        *,
        name: str,
        admit: Admit,
        max_pending: int = MAX_PENDING,
        handshake_limit_s: float = HANDSHAKE_LIMIT_S,
    ) -> None:
        self._name = name
        self._admit = admit
        self._most = min(max_pending, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._limit_s = handshake_limit_s
        self._lock = threading.Lock()
        self._pending: dict[_Pending, None] = {}  # oldest first
        self._peers: set[socket.socket] = set()
        self._closing = False
        self._unlogged = 0
        self._logged_at = -_LOG_EVERY_S
        self._server = listen(host)
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True).start()

    @property
    def connections(self) -> int:
        """Open connections, pending ones included."""
        with self._lock:
            return len(self._pending) + len(self._peers)

    def close(self) -> None:
        """Stop accepting, and end every connection."""
        with self._lock:
            self._closing = True
            connections = [*(pending.connection for pending in self._pending), *self._peers]
        for connection in [self._server, *connections]:
            shut(connection)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        while not self._closing:
            try:
                if poll.poll(_POLL_EVERY_S * 1e3) and not self._closing:
                    connection, address = self._server.accept()
                    self._start_handshake(_Pending(connection, str(address[0])))
                self._drop_late()
            except (OSError, RuntimeError, MemoryError) as exc:
                if self._closing:
                    return
                log.debug("%s could not accept a connection: %s", self._name, exc)
                if not isinstance(exc, OSError) or exc.errno in _EXHAUSTED:  # else the peer gave up before it was accepted
                    self._drop_oldest(1)
                    time.sleep(_PAUSE_S)

    def _start_handshake(self, pending: _Pending) -> None:
        with self._lock:
            self._pending[pending] = None
            surplus = len(self._pending) - self._most
        self._drop_oldest(surplus)
        try:
            threading.Thread(target=self._handshake, args=(pending,), name=f"{self._name}-peer", daemon=True).start()
        except RuntimeError:
            self._forget(pending)
            raise

    def _drop_oldest(self, count: int) -> None:
        with self._lock:
            oldest = list(itertools.islice(self._pending, max(0, count)))
        self._drop(oldest)

    def _drop_late(self) -> None:
        before = time.monotonic() - self._limit_s
        with self._lock:
            late = [pending for pending in self._pending if pending.since < before]
        self._drop(late)

    def _drop(self, dropped: list[_Pending]) -> None:
        """Close pending connections; their threads wake up and end."""
        for each in dropped:
            with self._lock:
                is_pending = self._pending.pop(each, self) is None
            if is_pending:
                shut(each.connection)

    def _handshake(self, pending: _Pending) -> None:
        try:
            pending.connection.settimeout(self._limit_s)
            serve = self._admit(pending.connection, pending.peer)
            if self._promote(pending):
                serve()
        except RejectedError as exc:
            self._log_rejection(pending, str(exc))
        except OSError as exc:
            self._log_rejection(pending, str(exc) if self._is_pending(pending) else "it took too long")
        except ValueError:
            self._log_rejection(pending, "it sent a message that cannot be read")
        finally:
            self._forget(pending)

    def _promote(self, pending: _Pending) -> bool:
        with self._lock:
            if self._closing or self._pending.pop(pending, self) is not None:
                return False
            self._peers.add(pending.connection)
            return True

    def _is_pending(self, pending: _Pending) -> bool:
        with self._lock:
            return pending in self._pending

    def _forget(self, pending: _Pending) -> None:
        shut(pending.connection)
        with self._lock:
            self._pending.pop(pending, None)
            self._peers.discard(pending.connection)

    def _log_rejection(self, pending: _Pending, why: str) -> None:
        """Log the first rejection; those that follow soon are counted."""
        now = time.monotonic()
        with self._lock:
            if self._closing:
                return
            if now - self._logged_at < _LOG_EVERY_S:
                self._unlogged += 1
                return
            others, self._unlogged, self._logged_at = self._unlogged, 0, now
        more = f" ({others} more since the last such message)" if others else ""
        log.warning("a connection from %s to %s was rejected: %s%s", pending.peer, self._name, why, more)
