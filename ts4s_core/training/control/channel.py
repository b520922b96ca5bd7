"""One end of a control connection: lines over TLS, with a limit of time for each that is sent and of size for each that is read.

A thread may read while others send. The encryption works in memory and the socket never blocks, so that no thread holds
what another one needs while it waits for the network.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time

from ts4s_core.sockets import shut
from ts4s_core.training.control.messages import MAX_LINE_BYTES

#: How often each end gives a sign of life; see :func:`beat_every_s`.
BEAT_EVERY_S = 1.0
_READ_BYTES = 256 * 2**10
_RECORD_BYTES = 16 * 2**10


def beat_every_s(timeout_s: float) -> float:
    """Seconds between signs of life where a silence of ``timeout_s`` counts as death."""
    return min(BEAT_EVERY_S, timeout_s / 4)


class Channel:
    """A connection that is encrypted once its constructor returns.

    Args:
        connection: a connected socket; the channel's from now on.
        context: of this end.
        server_side: whether this is the server's end.
        deadline: monotonic time until which the handshake must have ended.

    Attributes:
        heard: monotonic time at which bytes came last.

    Raises:
        OSError: if the peer speaks no TLS, leaves, or does not answer in time.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, *, server_side: bool, deadline: float) -> None:
        self.heard = time.monotonic()
        self._connection = connection
        self._connection.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._using_tls = threading.Lock()
        self._sending = threading.Lock()
        self._received = bytearray()
        self._searched = 0
        self._shake_hands(deadline)

    def certificate(self) -> bytes | None:
        """The peer's certificate in DER."""
        return self._tls.getpeercert(binary_form=True)

    def send(self, line: bytes, *, deadline: float) -> None:
        """Send a line whole. After an error the channel is of no use.

        Raises:
            TimeoutError: if the peer, or a line before, does not let it through until ``deadline``.
            OSError: if the connection is gone.
        """
        if not self._sending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError("an earlier message is still on its way")
        try:
            view = memoryview(line)
            while view:
                with self._using_tls:
                    view = view[self._tls.write(view[:_RECORD_BYTES]) :]
                    sealed = self._outgoing.read()
                self._flush(sealed, deadline)
        finally:
            self._sending.release()

    def receive(self, *, limit_bytes: int = MAX_LINE_BYTES, deadline: float | None = None) -> bytes:
        """The next line; nothing when the peer has ended the connection.

        Raises:
            ValueError: if the line is longer than ``limit_bytes``.
            TimeoutError: if it does not come until ``deadline``.
            OSError: if the connection is gone.
        """
        while (end := self._received.find(b"\n", self._searched)) < 0 and len(self._received) <= limit_bytes:
            self._searched = len(self._received)
            data = self._decrypted(deadline)
            if not data:
                return b""
            self._received += data
        if end < 0 or end >= limit_bytes:
            raise ValueError(f"a line of the control channel is longer than {limit_bytes} bytes")
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        self._searched = 0
        return line

    def close(self) -> None:
        """End the connection; threads that wait for it wake up."""
        shut(self._connection)

    def _shake_hands(self, deadline: float) -> None:
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush(self._outgoing.read(), deadline)
            if not done and not self._fill(deadline):
                raise ConnectionError("the peer left during the handshake")

    def _decrypted(self, deadline: float | None) -> bytes:
        while True:
            with self._using_tls:
                try:
                    return self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
            if not self._fill(deadline):
                return b""

    def _fill(self, deadline: float | None) -> bool:
        """Take what has come, or wait for it; whether the peer is still there."""
        while True:
            self._await(select.POLLIN, deadline)
            try:
                data = self._connection.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            self.heard = time.monotonic()
            if data:
                with self._using_tls:
                    self._incoming.write(data)
            return bool(data)

    def _flush(self, sealed: bytes, deadline: float) -> None:
        view = memoryview(sealed)
        while view:
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError:
                self._await(select.POLLOUT, deadline)

    def _await(self, event: int, deadline: float | None) -> None:
        if not self._is_ready(event, deadline):
            raise TimeoutError("the peer did not answer in time")

    def _is_ready(self, event: int, deadline: float | None) -> bool:
        descriptor = self._connection.fileno()
        if descriptor < 0:
            raise ConnectionError("the connection was ended here")
        poll = select.poll()
        poll.register(descriptor, event)
        return bool(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3))
