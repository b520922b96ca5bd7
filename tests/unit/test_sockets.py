"""Listeners against real strangers: silent, dripping, talking junk, and more of them than a process may have open files."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ts4s_core.sockets import Listener, RejectedError, Serve, bare, listen, set_silence_limit

WORD = b"open sesame"
LIMIT_S = 20.0


def admit(connection: socket.socket, _peer: str) -> Serve:
    """Whoever says the word is answered, and greeted until it leaves."""
    said = b""
    while len(said) < len(WORD):
        piece = connection.recv(len(WORD) - len(said))
        if not piece:
            raise ConnectionError("it left")
        said += piece
    if said == b"\xff" * len(WORD):
        raise ValueError("\x1b[2J not to be shown")
    if said != WORD:
        raise RejectedError("it does not know the word")

    def serve() -> None:
        connection.settimeout(None)
        while connection.recv(1):
            connection.sendall(b"!")

    return serve


@contextlib.contextmanager
def listener(**options: float) -> Iterator[Listener]:
    made = Listener("127.0.0.1", name="test", admit=admit, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def connect(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    connection.sendall(said)
    return connection


def is_served(port: int) -> bool:
    with connect(port, WORD + b"?") as peer:
        return peer.recv(1) == b"!"


def is_shut(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_byte_now_and_then_does_not_prolong_the_handshake():
    with listener(handshake_limit_s=1.0) as served, connect(served.port) as dripping:
        began = time.monotonic()
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.2):
                    dripping.sendall(WORD[:1])

        thread = threading.Thread(target=drip)
        thread.start()
        assert is_shut(dripping)
        seconds = time.monotonic() - began
        stop.set()
        thread.join(LIMIT_S)
        assert 0.9 < seconds < 10
        until(lambda: served.connections == 0)
        assert is_served(served.port)


def test_strangers_are_few_and_the_oldest_goes_first():
    with listener(max_pending=4) as served:
        strangers = [connect(served.port) for _ in range(10)]
        assert all(is_shut(stranger) for stranger in strangers[:6])
        assert served.connections == 4
        # Those that were let in do not count.
        peers = [connect(served.port, WORD + b"?") for _ in range(6)]
        assert [peer.recv(1) for peer in peers] == [b"!"] * 6
        for connection in (*strangers, *peers):
            connection.close()
        until(lambda: served.connections == 0)


@pytest.mark.parametrize("junk", [b"\xff" * 11, b"wrong word!", b"GET / HTTP/1.1\r\n\r\n", b"short"])
def test_junk_is_one_line_of_the_log_and_no_traceback(junk: bytes, caplog: pytest.LogCaptureFixture, capfd):
    caplog.set_level(logging.DEBUG)
    with listener() as served:
        for _ in range(3):
            with connect(served.port, junk) as stranger:
                with contextlib.suppress(OSError):  # shut already
                    stranger.shutdown(socket.SHUT_WR)
                assert is_shut(stranger)
        until(lambda: served.connections == 0)
        assert is_served(served.port)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("a connection from 127.0.0.1 to test was rejected: ")
    assert "\x1b" not in lines[0]
    assert capfd.readouterr() == ("", "")


SERVER = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.path[:0] = [{here!r}]
from test_sockets import Listener, admit, until
served = Listener("127.0.0.1", name="test", admit=admit)
print(served.port, flush=True)
held = []
for line in sys.stdin:
    if line == "fill\\n":
        until(lambda: served.connections == 0)  # what leaves frees a descriptor
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            print(exc.errno, flush=True)
    else:
        for descriptor in held:
            os.close(descriptor)
        held = []
        print("free", flush=True)
"""


@pytest.fixture
def crowded() -> Iterator[tuple[int, Callable[[str], str]]]:
    """The port of a listener in a process that may open 64 files, and what it answers to a word."""
    command = [sys.executable, "-c", SERVER.format(here=os.path.dirname(__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        words, answers = process.stdin, process.stdout

        def tell(word: str) -> str:
            words.write(word + "\n")
            words.flush()
            return answers.readline().strip()

        try:
            yield int(answers.readline()), tell
        finally:
            process.kill()


def test_accepting_goes_on_after_descriptors_ran_out(crowded):
    port, tell = crowded
    assert is_served(port)
    assert tell("fill") == "24"
    waiting = connect(port, WORD + b"?")
    waiting.settimeout(0.5)
    with pytest.raises(TimeoutError):
        waiting.recv(1)
    assert tell("free") == "free"
    waiting.settimeout(LIMIT_S)
    assert waiting.recv(1) == b"!"
    waiting.close()
    assert is_served(port)


def test_more_strangers_than_descriptors_keep_nobody_out(crowded):
    port, _tell = crowded
    strangers = [connect(port, b"o") for _ in range(200)]
    assert is_served(port)
    for stranger in strangers:
        stranger.close()
    assert is_served(port)


def test_interfaces_are_named_in_every_way():
    for host, family in (
        ("127.0.0.1", socket.AF_INET),
        ("0.0.0.0", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("[::1]", socket.AF_INET6),
        ("::", socket.AF_INET6),
    ):
        with listen(host) as server:
            assert server.family == family
            assert server.getsockname()[0] == bare(host)
    with pytest.raises(OSError, match=r"."):
        listen("192.0.2.1")  # nobody's


def test_the_kernel_watches_a_connection():
    with listen("127.0.0.1") as server, socket.create_connection(server.getsockname()[:2]) as connection:
        set_silence_limit(connection, 8.0)
        read = lambda option: connection.getsockopt(socket.IPPROTO_TCP, option)  # noqa: E731
        assert read(socket.TCP_USER_TIMEOUT) == 8_000
        assert read(socket.TCP_KEEPIDLE) + read(socket.TCP_KEEPINTVL) * read(socket.TCP_KEEPCNT) <= 8
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert read(socket.TCP_NODELAY) == 1
