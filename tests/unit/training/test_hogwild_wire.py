"""Slices over real sockets, in one process."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from ts4s_core.errors import WorkerLostError
from ts4s_core.training.exchange.buckets import BLOCK, lay_out
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.optimizers.adamw import SlicedAdamW
from ts4s_core.training.strategies.hogwild import SliceOwner
from ts4s_core.training.strategies.hogwild_wire import Request, SliceClient, SliceServer

SECRET = "ab" * 32
PULL = Request(rank=0, seen=None)


@pytest.fixture
def owner() -> Iterator[SliceOwner]:
    """Rank 1 of 2: it owns the second half of 4 blocks."""
    layout = lay_out([("w", (4, BLOCK))])
    exchange = Exchange(layout, PrivateBuckets(layout, rank=1, world_size=2), timeout_s=5)
    exchange.parameters[0][2 * BLOCK :] = 1.0
    yield SliceOwner(exchange, SlicedAdamW(exchange, weight_decay=0.0), updates=0)
    exchange.close()


@pytest.fixture
def server(owner: SliceOwner) -> Iterator[SliceServer]:
    served = SliceServer("127.0.0.1", secret=SECRET, elements=owner.elements, serve=owner.serve)
    yield served
    served.close()


def client(server: SliceServer, secret: str = SECRET) -> SliceClient:
    return SliceClient(server.address, owner=1, secret=secret, timeout_s=5)


def test_a_push_is_applied_at_once_and_its_staleness_counted(owner: SliceOwner, server: SliceServer):
    first, second = client(server), client(server)
    weights = [torch.zeros(2 * BLOCK), torch.zeros(2 * BLOCK)]
    gradient = torch.full((2 * BLOCK,), 3.0)
    assert first.ask(PULL, (), [weights[0]]) == (0, 0)
    assert (weights[0] == 1).all()
    # A first step of Adam is the rate, against the gradient's sign; pieces may be cut anywhere.
    request = Request(rank=0, seen=0, rate=0.25, divisor=2.0)
    assert first.ask(request, [gradient[:100], gradient[100:]], [weights[0]]) == (1, 0)
    assert torch.allclose(weights[0], torch.full((2 * BLOCK,), 0.75), atol=1e-6)
    # The second pushes what it computed at the weights before that.
    assert second.ask(request, [gradient], [weights[1]]) == (2, 1)
    assert torch.equal(owner.exchange.parameters[0][2 * BLOCK :], weights[1])
    assert owner.staleness == {0: 1, 1: 1}
    # Whoever only asks changes nothing.
    assert first.ask(PULL, (), [weights[0]]) == (2, 0)
    assert torch.equal(weights[0], weights[1])
    first.close()
    second.close()


def test_strangers_are_turned_away_on_both_sides(owner: SliceOwner, server: SliceServer):
    with pytest.raises(WorkerLostError, match=r"slices of rank 1 at .* did not let this rank in"):
        client(server, secret="cd" * 32)
    with socket.create_connection(server.address, timeout=5) as stranger:
        assert len(stranger.recv(32)) == 32
        stranger.sendall(b"\0" * 64)
        assert stranger.recv(1) == b""
    assert owner.updates == 0
    # A server that does not know the secret cannot prove that it does.
    impostor = Impostor("127.0.0.1", secret="", elements=1, serve=owner.serve)
    with pytest.raises(WorkerLostError, match="is not rank 1 of this run"):
        client(impostor)
    impostor.close()


class Impostor(SliceServer):
    """Lets everybody in, and claims to know the secret."""

    def _admit(self, connection: socket.socket, _peer: str) -> Callable[[], None]:
        connection.sendall(b"\1" * 32)
        connection.recv(64)
        connection.sendall(b"\2" * 32)
        return functools.partial(self._answer, connection)


def test_an_owner_that_is_gone_is_named(server: SliceServer):
    peer = client(server)
    server.close()
    with pytest.raises(WorkerLostError, match="slices of rank 1 are lost"):
        peer.ask(PULL, (), [torch.zeros(2 * BLOCK)])
    peer.close()


def test_strangers_that_left_are_forgotten(server: SliceServer):
    for _ in range(100):
        socket.create_connection(server.address, timeout=5).close()
    peer = client(server)
    weights = torch.zeros(2 * BLOCK)
    assert peer.ask(PULL, (), [weights]) == (0, 0)
    deadline = time.monotonic() + 20
    while server.connections > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    peer.close()
