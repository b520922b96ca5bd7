"""Tree, exchanges and optimiser with ranks as threads of this process: the same bits for every W, over several buckets."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from ts4s_core.errors import WorkerLostError
from ts4s_core.training.exchange.buckets import BLOCK, CHUNK, Layout, attach, chunks, lay_out
from ts4s_core.training.exchange.exchange import Exchange, GlobalSquares, PrivateBuckets, block_squares
from ts4s_core.training.exchange.gloo import AddressStore, Gloo, make_group
from ts4s_core.training.exchange.shared_memory import Regions, Segment, SharedMemory, address_of
from ts4s_core.training.optimizers.adamw import SlicedAdamW
from ts4s_core.training.step.gradient_tree import GradientTree

SHAPES = [("a.weight", (300, 70)), ("a.bias", (70,)), ("b.weight", (401, 97)), ("b.bias", (97,)), ("c.weight", (90, 1_100))]
PARTS = 8
STEPS = 3


def values(*entropy: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(entropy)
    # Magnitudes apart, so that another order of summation gives other bits.
    return {
        name: torch.from_numpy((random.standard_normal(shape) * 10.0 ** random.integers(-3, 3)).astype(np.float32))
        for name, shape in SHAPES
    }


def train_one_rank(exchange: Exchange) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Steps with given gradients: part 5 is empty, parameter b.bias has none in odd parts."""
    layout = exchange.layout
    parameters = {name: nn.Parameter(tensor) for name, tensor in values(0).items()}
    attach(parameters, layout.views(exchange.parameters), copy=exchange.rank == 0 or not isinstance(exchange, SharedMemory))
    exchange.publish()
    per_rank = PARTS // exchange.world_size
    tree = GradientTree(parameters, exchange, parts=per_rank)
    squares = GlobalSquares(layout, exchange.world_size)
    optimizer = SlicedAdamW(exchange, weight_decay=0.1)
    norms = []
    for step in range(STEPS):
        for place in range(per_rank):
            part = exchange.rank * per_rank + place
            tree.begin(place)
            if part != 5:
                gradients = values(1, step, part)
                used = {name: p for name, p in parameters.items() if part % 2 == 0 or name != "b.bias"}
                sum((p * gradients[name]).sum() for name, p in used.items()).backward()
            tree.end()
        exchange.collect()
        own = np.zeros(squares.width)
        own[: len(exchange.squares)] = exchange.squares
        norms.append(squares.norm(exchange.gather(own)))
        optimizer.step(step + 1, learning_rate=0.01, divisor=37.0 * max(1.0, norms[-1]))
        exchange.publish()
    found = {name: view.clone() for name, view in layout.views(exchange.parameters).items()}
    exchange.gather(np.zeros(0))
    tree.close()
    exchange.close()
    return found, norms


def in_threads(world_size: int, make: Callable[[int], Exchange]) -> list[Any]:
    results: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        results[rank] = train_one_rank(make(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(result is not None for result in results)
    return results


class Meeting:
    """What the control channel does for ranks that are processes: everybody's value under a key."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._brought: dict[str, dict[int, Any]] = {}
        self._news = threading.Condition()

    def gather(self, rank: int, key: str, value: Any) -> list[Any]:
        with self._news:
            brought = self._brought.setdefault(key, {})
            brought[rank] = value
            self._news.notify_all()
            assert self._news.wait_for(lambda: len(brought) == self._world_size, timeout=30)
            return [brought[peer] for peer in range(self._world_size)]

    def store(self, rank: int, name: str) -> AddressStore:
        return AddressStore(lambda key, value: self.gather(rank, key, value), name)


def exchanges(kind: str, layout: Layout, world_size: int) -> Callable[[int], Exchange]:
    if world_size == 1:
        return lambda rank: Exchange(layout, PrivateBuckets(layout), timeout_s=30)
    if kind == "shared":
        size = Regions(layout, world_size).size
        segment, descriptor = Segment.create(size)
        others = [Segment.attach(address_of(descriptor), size) for _ in range(1, world_size)]
        segments = [segment, *others]

        def shared(rank: int) -> Exchange:
            transport = SharedMemory(layout, segments[rank], rank=rank, world_size=world_size, timeout_s=30)
            return Exchange(layout, transport, timeout_s=30)

        return shared
    meeting = Meeting(world_size)

    def gloo(rank: int) -> Exchange:
        limits: dict[str, Any] = {"world_size": world_size, "timeout_s": 30}
        groups = tuple(make_group(meeting.store(rank, name), rank=rank, address="127.0.0.1", **limits) for name in "ab")
        transport = Gloo(layout, groups, rank=rank, world_size=world_size)  # type: ignore[arg-type]
        return Exchange(layout, transport, timeout_s=30)

    return gloo


@pytest.fixture(scope="module")
def layout() -> Layout:
    return lay_out(SHAPES, bucket_elements=30_000)


@pytest.fixture(scope="module")
def alone(layout: Layout) -> tuple[dict[str, torch.Tensor], list[float]]:
    return in_threads(1, exchanges("none", layout, 1))[0]


@pytest.mark.parametrize("kind", ["shared", "network"])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_weights_and_norms_do_not_hang_on_the_number_of_ranks(layout, alone, kind, world_size):
    assert len(layout.bucket_sizes) == 4
    for weights, norms in in_threads(world_size, exchanges(kind, layout, world_size)):
        assert norms == alone[1]
        assert all(torch.equal(weights[name], alone[0][name]) for name in weights)


def listening() -> set[int]:
    return {each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ranks_meet_without_a_store_that_listens(address):
    """Nobody but gloo itself listens, which neither speaks to strangers nor is disturbed by them."""
    before, meeting, groups = listening(), Meeting(2), {}

    def meet(rank: int) -> None:
        groups[rank] = make_group(meeting.store(rank, "a"), rank=rank, world_size=2, address=address, timeout_s=30)

    def gather(rank: int) -> None:
        found = [torch.empty(3) for _ in range(2)]
        groups[rank].allgather([found], [torch.full((3,), float(rank))]).wait()
        sums[rank] = [float(values.sum()) for values in found]

    in_both(meet)
    ports = listening() - before
    assert len(ports) == 2  # gloo's own, one a rank
    sums: dict[int, list[float]] = {}
    with contextlib.ExitStack() as strangers:  # they stay while the ranks go on: silent, with junk, and a crowd
        for said in (b"", os.urandom(512), *[bytes(8)] * 50):
            for port in ports:
                strangers.enter_context(socket.create_connection((address, port), timeout=5)).sendall(said)
        in_both(gather)
    assert sums == {0: [0.0, 3.0], 1: [0.0, 3.0]}


def in_both(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_the_sum_is_the_tree_over_parts(layout):
    """Against the definition: ((0+1)+(2+3)) + ((4+5)+(6+7)), then PyTorch's own AdamW."""
    parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in values(0).items()}
    decayed = [p for p in parameters.values() if p.ndim > 1]
    rest = [p for p in parameters.values() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01)
    norms = []
    for step in range(STEPS):
        level: list[dict[str, torch.Tensor]] = []
        for part in range(PARTS):
            gradients = values(1, step, part)
            zero = {name for name in gradients if part == 5 or (part % 2 and name == "b.bias")}
            level.append({name: torch.zeros_like(g) if name in zero else g for name, g in gradients.items()})
        while len(level) > 1:
            level = [
                {name: left[name] + right[name] for name in left} for left, right in zip(level[::2], level[1::2], strict=True)
            ]
        norms.append(float(np.sqrt(sum(float((g.double() ** 2).sum()) for g in level[0].values()))))
        for name, parameter in parameters.items():
            parameter.grad = level[0][name] / (37.0 * max(1.0, norms[-1]))
        optimizer.step()
    weights, found = in_threads(1, exchanges("none", layout, 1))[0]
    assert found == pytest.approx(norms, rel=1e-6)
    assert all(torch.allclose(weights[name], parameters[name], rtol=1e-5, atol=1e-6) for name in weights)


def test_layout_is_aligned_apart_by_decay_and_numbered_as_backward_completes(layout):
    assert all(size % BLOCK == 0 for size in layout.bucket_sizes)
    assert all(slot.offset % 64 == 0 for slot in layout.slots)
    buckets = {slot.name: slot.bucket for slot in layout.slots}
    assert buckets["c.weight"] < buckets["b.weight"] < buckets["a.weight"]
    assert buckets["a.bias"] == buckets["b.bias"]
    assert [layout.decays[buckets[name]] for name in ("a.weight", "a.bias")] == [True, False]
    for world_size in (1, 2, 4, 8):
        for bucket, size in enumerate(layout.bucket_sizes):
            edges = [layout.slices(rank, world_size)[bucket] for rank in range(world_size)]
            assert (edges[0][0], edges[-1][1]) == (0, size)
            assert all(left[1] == right[0] for left, right in itertools.pairwise(edges))


def test_chunks_lie_on_one_grid():
    assert list(chunks(0, 2 * CHUNK + BLOCK)) == [(0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 2 * CHUNK + BLOCK)]
    assert list(chunks(3 * BLOCK, CHUNK + BLOCK)) == [(3 * BLOCK, CHUNK), (CHUNK, CHUNK + BLOCK)]


def test_a_block_has_the_same_sum_of_squares_in_any_call():
    random = np.random.default_rng(0).standard_normal(40 * BLOCK).astype(np.float32)
    whole = block_squares(torch.from_numpy(random))
    for count in (1, 2, 3, 5, 16):
        for start in (0, 1, 7, 24):
            piece = torch.from_numpy(random[start * BLOCK : (start + count) * BLOCK])
            assert (block_squares(piece) == whole[start : start + count]).all()


def test_the_optimizer_is_called_so_that_cuts_and_threads_do_not_change_bits():
    size = 5 * CHUNK + 3 * BLOCK
    random = np.random.default_rng(0)
    start = [torch.from_numpy(random.standard_normal(size).astype(np.float32)) for _ in range(2)]

    def stepped(world_size: int, threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        layout = lay_out([("w", (1, size))])
        found = torch.empty(size)
        for rank in range(world_size):
            exchange = Exchange(layout, PrivateBuckets(layout), timeout_s=5)
            exchange.slices = layout.slices(rank, world_size)
            exchange.parameters[0].copy_(start[0])
            exchange.gradients[0].copy_(start[1])
            optimizer = SlicedAdamW(exchange, weight_decay=0.01)
            for number in (1, 2):
                exchange.gradients[0].copy_(start[1])
                optimizer.step(number, learning_rate=1e-3, divisor=3.7)
            begin, end = exchange.slices[0]
            found[begin:end] = exchange.parameters[0][begin:end]
            exchange.close()
        return found

    before = torch.get_num_threads()
    try:
        reference = stepped(1, 1)
        assert all(
            torch.equal(stepped(world_size, threads), reference) for world_size in (1, 2, 4, 8) for threads in (1, 2, 3, 4)
        )
    finally:
        torch.set_num_threads(before)


def test_a_rank_that_does_not_come_is_named():
    layout = lay_out([("w", (64, 64))])
    size = Regions(layout, 2).size
    segment, _descriptor = Segment.create(size)
    exchange = Exchange(layout, SharedMemory(layout, segment, rank=0, world_size=2, timeout_s=0.2), timeout_s=0.2)
    with pytest.raises(WorkerLostError, match=r"Rank 0 waited 0\.2 s for rank 1"):
        exchange.gather(np.zeros(3))
    exchange.bucket_done(0)
    with pytest.raises(WorkerLostError, match="rank 1 to bring its gradients"):
        exchange.collect()
    exchange.close()


def test_segment_of_another_size_is_refused():
    _segment, descriptor = Segment.create(8_192)
    with pytest.raises(OSError, match="another size"):
        Segment.attach(address_of(descriptor), 4_096)
