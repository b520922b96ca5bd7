"""How the ranks of strategy ``hogwild`` send each other slices: raw FP32 behind fixed headers, over the workers' own network.

A server listens on the interface by which its peers reach it, and admits those who know the run's secret: each side answers
the other's random challenge with an HMAC of it, so that the secret itself never travels. A request is ``kind, rank, seen,
rate, divisor`` and, for a push, the owner's slices of a gradient; the answer is ``updates, staleness`` and the owner's
slices of the parameters. Nothing is parsed but those numbers. Ranks that share memory send the numbers alone.
"""

from __future__ import annotations

import functools
import hmac
import logging
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ts4s_core.errors import WorkerLostError
from ts4s_core.sockets import Listener, RejectedError, set_silence_limit, shut

log = logging.getLogger(__name__)

_REQUEST = struct.Struct("<BIQdd")
_ANSWER = struct.Struct("<QQ")
_PULL, _PUSH = 0, 1
_NONCE_BYTES, _DIGEST = 32, "sha256"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Request:
    """What a rank asks of an owner.

    Attributes:
        rank: who asks.
        seen: updates that the owner's slices had had when the gradient was computed; None: a pull.
        rate: learning rate.
        divisor: of the gradient.
    """

    rank: int
    seen: int | None
    rate: float = 0.0
    divisor: float = 1.0


#: Called with a request and a buffer that holds the gradient; fills it with the parameters, returns (updates, staleness).
Serve = Callable[[Request, torch.Tensor], tuple[int, int]]


class SliceServer:
    """Serves one rank's slices to its peers, a thread each.

    Args:
        host: the interface to bind to.
        secret: of the run.
        elements: of the slices, 0 where they are shared memory.
        serve: answers requests.
        timeout_s: longest time for which a peer's host may be silent to what it is sent.

    Attributes:
        address: (host, port) for the peers.
    """

    def __init__(self, host: str, *, secret: str, elements: int, serve: Serve, timeout_s: float = 120.0) -> None:
        self._secret = secret.encode()
        self._elements = elements
        self._serve = serve
        self._timeout_s = timeout_s
        self._listener = Listener(host, name="slices", admit=self._admit)
        self.address: tuple[str, int] = (host, self._listener.port)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return self._listener.connections

    def close(self) -> None:
        """End every connection."""
        self._listener.close()

    def _admit(self, connection: socket.socket, _peer: str) -> Callable[[], None]:
        set_silence_limit(connection, self._timeout_s)
        challenge = secrets.token_bytes(_NONCE_BYTES)
        connection.sendall(challenge)
        answer = _received(connection, _DIGEST_BYTES + _NONCE_BYTES)
        if not hmac.compare_digest(answer[:_DIGEST_BYTES], hmac.digest(self._secret, b"client" + challenge, _DIGEST)):
            raise RejectedError("it does not know the secret")
        connection.sendall(hmac.digest(self._secret, b"server" + answer[_DIGEST_BYTES:], _DIGEST))
        return functools.partial(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        buffer = torch.zeros(self._elements)
        view = _bytes(buffer)
        try:
            while True:
                kind, rank, seen, rate, divisor = _REQUEST.unpack(_received(connection, _REQUEST.size))
                if kind == _PUSH:
                    _fill(connection, view)
                answer = self._serve(Request(rank, seen if kind == _PUSH else None, rate, divisor), buffer)
                connection.sendall(_ANSWER.pack(*answer))
                connection.sendall(view)
        except OSError as exc:
            log.debug("a peer of the slices left: %s", exc)


class SliceClient:
    """A rank's connection to the owner of some slices."""

    def __init__(self, address: Sequence[Any], *, owner: int, secret: str, timeout_s: float) -> None:
        self._owner = owner
        host, port = str(address[0]), int(address[1])
        try:
            self._connection = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as exc:
            raise WorkerLostError(f"The slices of rank {owner} cannot be reached at {host}:{port}: {exc}") from exc
        try:
            set_silence_limit(self._connection, timeout_s)
            challenge, own = _received(self._connection, _NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
            self._connection.sendall(hmac.digest(secret.encode(), b"client" + challenge, _DIGEST) + own)
            proof = _received(self._connection, _DIGEST_BYTES)
        except OSError as exc:
            self.close()
            raise WorkerLostError(f"The slices of rank {owner} at {host}:{port} did not let this rank in: {exc}") from exc
        if not hmac.compare_digest(proof, hmac.digest(secret.encode(), b"server" + own, _DIGEST)):
            self.close()
            raise WorkerLostError(f"The process that answers at {host}:{port} is not rank {owner} of this run")

    def ask(self, request: Request, gradients: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> tuple[int, int]:
        """Send the owner's slices of a gradient, none for a pull, and receive its slices of the parameters.

        Returns:
            updates that the owner's slices have had, and how many of them the gradient was too late for.

        Raises:
            WorkerLostError: if the owner does not answer in time.
        """
        try:
            kind = _PULL if request.seen is None else _PUSH
            self._connection.sendall(_REQUEST.pack(kind, request.rank, request.seen or 0, request.rate, request.divisor))
            for piece in gradients:
                self._connection.sendall(_bytes(piece))
            updates, staleness = _ANSWER.unpack(_received(self._connection, _ANSWER.size))
            for piece in parameters:
                _fill(self._connection, _bytes(piece))
        except OSError as exc:
            raise WorkerLostError(f"The slices of rank {self._owner} are lost: {exc}") from exc
        return updates, staleness

    def close(self) -> None:
        """End the connection."""
        shut(self._connection)


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.numpy().data.cast("B") if tensor.numel() else memoryview(b"")


def _received(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    _fill(connection, memoryview(data))
    return bytes(data)


def _fill(connection: socket.socket, view: memoryview) -> None:
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the peer closed the connection")
        view = view[count:]
