"""A proxy of our own between an S3 client and a server: it cuts, delays, refuses, and can serialise conditional writes.

Every connection has a thread; a request is read whole (body included), numbered, shown to the rules, passed on over a fresh
connection, and its answer is passed back. What a rule says happens to that request alone.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import pytest

Action = Literal["pass", "cut before", "cut body", "cut answer", "half answer", "500", "SlowDown"]
CUTS: tuple[Action, ...] = ("cut before", "cut body", "cut answer", "half answer")
ERRORS: tuple[Action, ...] = ("500", "SlowDown")
CHUNK_BYTES = 64 * 1024
_STATUS = {"500": ("500 Internal Server Error", "InternalError"), "SlowDown": ("503 Slow Down", "SlowDown")}


@dataclass(frozen=True)
class Request:
    """What a rule is shown. ``number`` counts from 0 since the front's last reset, ``first_byte`` is that of the asked range."""

    number: int
    method: str
    target: str
    conditional: bool
    first_byte: int


@dataclass
class Front:
    """The running proxy.

    Attributes:
        url: address for the client.
        rule: what to do with a request.
        serialise: let one conditional request at a time through, as a server that is atomic would.
        delay_s: wait so long before each request is passed on.
        seen: the requests since the last reset.
    """

    url: str
    upstream: tuple[str, int]
    rule: Callable[[Request], Action] = lambda request: "pass"
    serialise: bool = False
    delay_s: float = 0.0
    cut_at_byte: int | None = None
    seen: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, rule: Callable[[Request], Action] | None = None) -> None:
        """Count from 0 again, with another rule."""
        with self._lock:
            self.seen = []
            self.rule = rule or (lambda request: "pass")

    def note(self, head: bytes) -> tuple[Request, Action]:
        """Number a request and ask the rule."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        conditional = re.search(rb"(?im)^if-(none-)?match:", head) is not None
        asked = re.search(rb"(?im)^range: *bytes=(\d+)-", head)
        with self._lock:
            request = Request(len(self.seen), method, target, conditional, int(asked[1]) if asked else 0)
            self.seen.append(request)
            return request, self.rule(request)

    def turn(self, request: Request) -> contextlib.AbstractContextManager[object]:
        """Conditional requests wait for each other, if they are to."""
        return self._turn if self.serialise and request.conditional else contextlib.nullcontext()


@pytest.fixture
def fronts() -> Iterator[Callable[[str], Front]]:
    """Starts fronts before servers, given their addresses."""
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(front_of(url))


@contextlib.contextmanager
def front_of(server_url: str) -> Iterator[Front]:
    """Start a front before a server; ended with all its connections when the block is left."""
    parts = urlsplit(server_url)
    assert parts.hostname is not None
    assert parts.port is not None
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    front = Front(f"http://127.0.0.1:{listener.getsockname()[1]}", (parts.hostname, parts.port))
    stopped = threading.Event()
    clients: set[socket.socket] = set()

    def accept() -> None:
        while not stopped.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.add(client)
            threading.Thread(target=_serve, args=(front, client, clients), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield front
    finally:
        stopped.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in list(clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _serve(front: Front, client: socket.socket, clients: set[socket.socket]) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with client, client.makefile("rb") as reader:
            while head := _head(reader):
                request, action = front.note(head)
                if action == "cut before":
                    _reset(client)
                    return
                if re.search(rb"(?im)^expect:", head):
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = reader.read(_length(head))
                if front.delay_s:
                    time.sleep(front.delay_s)
                if action in ("500", "SlowDown"):
                    _refuse(client, action, head_only=request.method == "HEAD")
                    continue
                with front.turn(request):
                    if not _pass_on(front, client, request, action, head, body):
                        return
    except OSError:
        return  # the client went away
    finally:
        clients.discard(client)


def _pass_on(front: Front, client: socket.socket, request: Request, action: Action, head: bytes, body: bytes) -> bool:
    """Send a request to the server and its answer to the client; false when the client's connection was cut."""
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(connection|expect):", line)]
    with socket.create_connection(front.upstream) as server, server.makefile("rb") as answer:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.sendall(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]))
        server.sendall(body[: len(body) // 2] if action == "cut body" else body)
        if action == "cut body":
            _reset(server)
            _reset(client)
            return False
        answered = _head(answer)
        if action == "cut answer":
            answer.read()  # the server has done it
            _reset(client)
            return False
        return _answer(front, client, request, action, answered, answer)


def _answer(front: Front, client: socket.socket, request: Request, action: Action, head: bytes, answer: object) -> bool:
    status = int(head.split(b" ", 2)[1])
    has_body = request.method != "HEAD" and status not in (204, 304)
    chunked = re.search(rb"(?im)^transfer-encoding:\s*chunked", head) is not None
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(connection|transfer-encoding):", line)]
    read = answer.read  # type: ignore[attr-defined]
    if chunked:
        data = _dechunked(answer)
        lines = [*lines[:-2], b"Content-Length: %d" % len(data), b"", b""]
        length = len(data)
    else:
        length, data = (_length(head) if has_body else 0), None
    client.sendall(b"\r\n".join(lines))
    limit = length
    if action == "half answer":
        limit = length // 2 if front.cut_at_byte is None else min(front.cut_at_byte, length)
    sent = 0
    while sent < limit:
        piece = data[sent:limit] if data is not None else read(min(CHUNK_BYTES, limit - sent))
        if not piece:
            break
        client.sendall(piece)
        sent += len(piece)
    if action == "half answer":
        _reset(client)
        return False
    return True


def _head(reader: object) -> bytes:
    """A request's or an answer's head with its empty line; nothing at the end."""
    lines = []
    while line := reader.readline():  # type: ignore[attr-defined]
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _length(head: bytes) -> int:
    found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    return int(found.group(1)) if found else 0


def _dechunked(answer: object) -> bytes:
    parts = []
    while size := int(answer.readline().split(b";")[0], 16):  # type: ignore[attr-defined]
        parts.append(answer.read(size))  # type: ignore[attr-defined]
        answer.readline()  # type: ignore[attr-defined]
    return b"".join(parts)


def _refuse(client: socket.socket, action: Action, *, head_only: bool) -> None:
    status, code = _STATUS[action]
    body = b"" if head_only else f"<Error><Code>{code}</Code><Message>please reduce your request rate</Message></Error>".encode()
    client.sendall(f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def _reset(connection: socket.socket) -> None:
    """End a connection so that the other side sees a reset, not an end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.close()
