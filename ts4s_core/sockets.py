"""Sockets that strangers can reach: one way to listen, and what a connection is told about silence.

Whoever connects is a stranger until it has shown that it may come in. A :class:`Listener` gives it a thread and a limit of
time for all of that, keeps few strangers at a time (the oldest goes first), and never stops accepting: where descriptors or
memory run out, it lets strangers go, waits a moment and goes on.
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

#: Longest time that a stranger has to show that it may come in, however it spreads its bytes.
HANDSHAKE_LIMIT_S = 10.0
#: Strangers at a time; fewer where the process may open few files.
STRANGERS = 64
#: Strangers that come within so many seconds of the last line about them are counted, and told of in the next.
_TOLD_EVERY_S = 10.0
_PAUSE_S = 0.05
_LOOK_EVERY_S = 0.25
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


def notice_silence(connection: socket.socket, silence_s: float) -> None:
    """Let the kernel end a connection whose other host is gone: nothing is acknowledged for so long."""
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
    """End a connection; whoever waits for it in another thread wakes up."""
    with contextlib.suppress(OSError):  # ended by the peer before
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class StrangerError(Exception):
    """Who connected may not come in."""


#: Serves a peer that was let in, until it leaves.
Serve = Callable[[], None]
#: Called with a connection and its peer's address: what serves it. Raises StrangerError, OSError or ValueError.
Admit = Callable[[socket.socket, str], Serve]
#: What a failing accept says of this process or host, not of who connected.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(eq=False)
class _Stranger:
    connection: socket.socket
    peer: str
    came: float = field(default_factory=time.monotonic)


class Listener:
    """Accepts connections on one interface until :meth:`close`.

    Args:
        host: interface to bind to.
        name: of its threads, and what it is called in the log.
        admit: decides on a connection, in a thread of its own. What it returns is called in the same thread, and the
            connection is shut when that returns.
        strangers: most of them at a time.
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
        strangers: int = STRANGERS,
        handshake_limit_s: float = HANDSHAKE_LIMIT_S,
    ) -> None:
        self._name = name
        self._admit = admit
        self._most = min(strangers, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._limit_s = handshake_limit_s
        self._lock = threading.Lock()
        self._strangers: dict[_Stranger, None] = {}  # in the order in which they came
        self._peers: set[socket.socket] = set()
        self._closing = False
        self._turned_away = 0
        self._told = -_TOLD_EVERY_S
        self._server = listen(host)
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True).start()

    @property
    def connections(self) -> int:
        """Connections that are open, strangers included."""
        with self._lock:
            return len(self._strangers) + len(self._peers)

    def close(self) -> None:
        """Stop accepting, and end every connection."""
        with self._lock:
            self._closing = True
            connections = [*(stranger.connection for stranger in self._strangers), *self._peers]
        for connection in [self._server, *connections]:
            shut(connection)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        while not self._closing:
            try:
                if poll.poll(_LOOK_EVERY_S * 1e3) and not self._closing:
                    connection, address = self._server.accept()
                    self._welcome(_Stranger(connection, str(address[0])))
                self._drop_late()
            except (OSError, RuntimeError, MemoryError) as exc:
                if self._closing:
                    return
                log.debug("%s could not take a connection: %s", self._name, exc)
                if not isinstance(exc, OSError) or exc.errno in _EXHAUSTED:  # else it was given up before it was accepted
                    self._drop_oldest(1)
                    time.sleep(_PAUSE_S)

    def _welcome(self, stranger: _Stranger) -> None:
        with self._lock:
            self._strangers[stranger] = None
            surplus = len(self._strangers) - self._most
        self._drop_oldest(surplus)
        try:
            threading.Thread(target=self._meet, args=(stranger,), name=f"{self._name}-peer", daemon=True).start()
        except RuntimeError:
            self._forget(stranger)
            raise

    def _drop_oldest(self, count: int) -> None:
        with self._lock:
            oldest = list(itertools.islice(self._strangers, max(0, count)))
        self._drop(oldest)

    def _drop_late(self) -> None:
        before = time.monotonic() - self._limit_s
        with self._lock:
            late = [stranger for stranger in self._strangers if stranger.came < before]
        self._drop(late)

    def _drop(self, strangers: list[_Stranger]) -> None:
        """Take strangers' connections away; their threads wake up and end."""
        for stranger in strangers:
            with self._lock:
                dropped = self._strangers.pop(stranger, self) is None
            if dropped:
                shut(stranger.connection)

    def _meet(self, stranger: _Stranger) -> None:
        try:
            stranger.connection.settimeout(self._limit_s)
            serve = self._admit(stranger.connection, stranger.peer)
            if self._let_in(stranger):
                serve()
        except StrangerError as exc:
            self._tell(stranger, str(exc))
        except OSError as exc:
            self._tell(stranger, str(exc) if self._is_waiting(stranger) else "it took too long")
        except ValueError:
            self._tell(stranger, "what it sent is not understood")
        finally:
            self._forget(stranger)

    def _let_in(self, stranger: _Stranger) -> bool:
        with self._lock:
            if self._closing or self._strangers.pop(stranger, self) is not None:
                return False
            self._peers.add(stranger.connection)
            return True

    def _is_waiting(self, stranger: _Stranger) -> bool:
        with self._lock:
            return stranger in self._strangers

    def _forget(self, stranger: _Stranger) -> None:
        shut(stranger.connection)
        with self._lock:
            self._strangers.pop(stranger, None)
            self._peers.discard(stranger.connection)

    def _tell(self, stranger: _Stranger, why: str) -> None:
        """One line for the first stranger; those that follow soon are counted."""
        now = time.monotonic()
        with self._lock:
            if self._closing:
                return
            if now - self._told < _TOLD_EVERY_S:
                self._turned_away += 1
                return
            others, self._turned_away, self._told = self._turned_away, 0, now
        more = f" ({others} more since the last such line)" if others else ""
        log.warning("a stranger at %s was turned away from %s: %s%s", stranger.peer, self._name, why, more)
