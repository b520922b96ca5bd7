"""What an average is, with ranks as threads of this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ts4s_core.errors import TrainingError
from ts4s_core.training.batches.batch import Batch
from ts4s_core.training.checkpoints.reader import Checkpoint
from ts4s_core.training.exchange.buckets import BLOCK, attach, lay_out, trainable_parameters
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.exchange.shared_memory import Regions, Segment, SharedMemory, address_of
from ts4s_core.training.optimizers.adamw import SlicedAdamW
from ts4s_core.training.step.built_model import no_seeded_dropout
from ts4s_core.training.step.independent_engine import IndependentEngine
from ts4s_core.training.step.objectives import objective_for
from ts4s_core.training.strategies.averaging import Averaging

RANKS = 2


class Net(nn.Module):
    """Logits of a row's first id; two buckets, one of several blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Linear(1, 3 * BLOCK)
        self.head = nn.Linear(3 * BLOCK, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(input_ids[:, :1].float()))


class ThreadPeers:
    """The part of Peers that a join needs."""

    world_size = RANKS

    def __init__(self, rank: int, meeting: threading.Barrier, box: dict[int, Any]) -> None:
        self.rank = rank
        self._meeting, self._box = meeting, box

    def gather(self, _key: str, value: Any) -> list[Any]:
        self._box[self.rank] = value
        self._meeting.wait(30)
        found = [self._box[rank] for rank in range(RANKS)]
        self._meeting.wait(30)
        return found


def strategy(rank: int, segment: Segment, meeting: threading.Barrier, box: dict[int, Any]) -> Averaging:
    module = Net()
    parameters = trainable_parameters(module)
    layout = lay_out([(name, tuple(parameter.shape)) for name, parameter in parameters.items()])
    local = Exchange(layout, PrivateBuckets(layout), timeout_s=30)
    attach(parameters, layout.views(local.parameters), copy=True)
    optimizer = SlicedAdamW(local, weight_decay=0.0)
    engine = IndependentEngine(
        module,
        parameters,
        local,
        optimizer,
        parts=1,
        first_part=rank,
        objective=objective_for("classification"),
        seed=0,
        max_grad_norm=0.0,
        seed_dropout=no_seeded_dropout,
    )
    memory = SharedMemory(layout, segment, rank=rank, world_size=RANKS, timeout_s=30)
    shared = Exchange(layout, memory, timeout_s=30)
    return Averaging(engine, optimizer, shared, peers=ThreadPeers(rank, meeting, box), frequency=0)  # type: ignore[arg-type]


def state(of: Averaging) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in of.saved().items() if name != "pending"}


def test_weights_and_moments_are_averaged_by_the_items_that_each_rank_saw(tmp_path: Path):
    layout = lay_out([(name, tuple(p.shape)) for name, p in Net().named_parameters()])
    size = Regions(layout, RANKS).size
    segment, descriptor = Segment.create(size)
    segments = [segment, Segment.attach(address_of(descriptor), size)]
    meeting, box = threading.Barrier(RANKS), dict[int, Any]()
    before: dict[int, dict[str, torch.Tensor]] = {}
    after: dict[int, dict[str, torch.Tensor]] = {}
    figures: dict[int, Any] = {}

    def work(rank: int) -> None:
        own = strategy(rank, segments[rank], meeting, box)
        rows = 6 - 4 * rank  # rank 0 sees six rows, rank 1 two
        ids = torch.arange(1, rows + 1)[:, None]
        batch = Batch(ids, torch.ones_like(ids), torch.arange(rows) % 2, rows)
        own.step([batch], step=0, rate=0.01, flag=False, memory_mib=10.0 + rank)
        before[rank] = state(own)
        if rank == 0:
            save_file({**own.saved()}, tmp_path / "moments-00000.safetensors")
        figures[rank] = own.join(1, saving=False)
        after[rank] = state(own)
        if rank == 0:
            with pytest.raises(TrainingError, match=r"expected train\.workers 1, as when it was written, got 2"):
                own.restore(Checkpoint(tmp_path))
        own.close()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(after[0]) == set(after[1]) == set(before[0])
    for name in after[0]:
        assert torch.equal(after[0][name], after[1][name]), name
        expected = 0.75 * before[0][name] + 0.25 * before[1][name]
        torch.testing.assert_close(after[0][name], expected, rtol=1e-6, atol=1e-9)
    assert not torch.equal(
        before[0]["weight/0/0/" + str(layout.bucket_sizes[0])], after[0]["weight/0/0/" + str(layout.bucket_sizes[0])]
    )
    (joined,) = figures[0].values()
    assert figures[0] == figures[1]
    assert (joined.items, joined.tokens, joined.memory_mib) == (8.0, 8, 11.0)
