"""Running statistics with ranks as threads: the same bits for every W; other state that forward changes is refused."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.training.exchange.buckets import lay_out
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.exchange.shared_memory import Regions, Segment, SharedMemory, address_of
from ts4s_core.training.step.running_statistics import RunningStatistics

PARTS, STEPS = 4, 3


def part_rows(step: int, part: int) -> torch.Tensor | None:
    if (step, part) == (1, 2):
        return None
    return torch.randn(3 + part, 6, generator=torch.Generator().manual_seed(10 * step + part))


def statistics_of_rank(exchange: Exchange) -> dict[str, np.ndarray[Any, Any]]:
    model = nn.Sequential(nn.BatchNorm1d(6, momentum=0.3), nn.BatchNorm1d(6, momentum=None)).train()
    found = RunningStatistics(model)
    own = PARTS // exchange.world_size
    for step in range(STEPS):
        found.begin()
        for part in range(exchange.rank * own, (exchange.rank + 1) * own):
            rows = part_rows(step, part)
            if rows is not None:
                model(rows)
            found.end_part(computed=rows is not None)
        found.end(exchange)
    exchange.close()
    return {name: values.copy() for name, values in found.values().items()}


def by_ranks(world_size: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    layout = lay_out([("weight", (6,))])
    if world_size == 1:
        return [statistics_of_rank(Exchange(layout, PrivateBuckets(layout), timeout_s=30))]
    size = Regions(layout, world_size).size
    segment, descriptor = Segment.create(size)
    segments = [segment, *(Segment.attach(address_of(descriptor), size) for _rank in range(1, world_size))]
    results: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        transport = SharedMemory(layout, segments[rank], rank=rank, world_size=world_size, timeout_s=30)
        results[rank] = statistics_of_rank(Exchange(layout, transport, timeout_s=30))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_statistics_have_the_same_bits_for_every_number_of_ranks() -> None:
    alone = by_ranks(1)[0]
    assert int(alone["0.num_batches_tracked"]) == STEPS
    assert np.abs(alone["0.running_mean"]).max() > 0.01
    for world_size in (2, 4):
        for rank in by_ranks(world_size):
            assert {name: values.tobytes() for name, values in rank.items()} == {
                name: values.tobytes() for name, values in alone.items()
            }


def test_a_step_with_one_part_is_pytorchs_own() -> None:
    layout = lay_out([("weight", (6,))])
    exchange = Exchange(layout, PrivateBuckets(layout), timeout_s=5)
    model, plain = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    found = RunningStatistics(model)
    rows = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    found.begin()
    model(rows)
    found.end_part(computed=True)
    found.end(exchange)
    exchange.close()
    plain(rows)
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), plain.buffers(), strict=True))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return rows


def test_other_state_is_refused() -> None:
    model = Counting()
    found = RunningStatistics(model)
    found.begin()
    model(torch.ones(1))
    with pytest.raises(UnsupportedModelError, match="Buffer seen of the module is changed by forward"):
        found.end_part(computed=True)
