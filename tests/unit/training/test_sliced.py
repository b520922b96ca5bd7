"""PyTorch's optimisers on slices: the bits of whole tensors for any cut, whole-tensor ones refused, state kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ts4s_core.errors import InputError
from ts4s_core.training.exchange.buckets import lay_out
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.optimizers.any_torch import SlicedTorch, optimizer_maker

SHAPES = [("a", (90, 70)), ("b", (70,)), ("c", (130, 40)), ("d", (9,))]
LAYOUT = lay_out(SHAPES)
ELEMENTWISE: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"fused": True}),
    ("AdamW", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Adamax", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
    ("Adadelta", {}),
    ("ASGD", {}),
    ("Rprop", {}),
]


@pytest.fixture
def exchanges() -> Iterator[Any]:
    made: list[Exchange] = []

    def make(rank: int, world_size: int) -> Exchange:
        made.append(Exchange(LAYOUT, PrivateBuckets(LAYOUT, rank=rank, world_size=world_size), timeout_s=5))
        return made[-1]

    yield make
    for exchange in made:
        exchange.close()


def steps(name: str, options: dict[str, Any], world_size: int, make: Any, *, restart_at: int = -1) -> list[torch.Tensor]:
    """Weights after 6 steps, put together from every rank's slices."""
    maker = optimizer_maker(getattr(torch.optim, name), options, learning_rate=0.01)
    whole = [torch.zeros(size) for size in LAYOUT.bucket_sizes]
    ranks = [make(rank, world_size) for rank in range(world_size)]
    for exchange in ranks:
        for number, bucket in enumerate(exchange.parameters):
            bucket.copy_(torch.randn(len(bucket), generator=torch.Generator().manual_seed(number)))
    optimizers = [SlicedTorch(exchange, make=maker) for exchange in ranks]
    for step in range(6):
        if step == restart_at:
            saved = [optimizer.state() for optimizer in optimizers]
            optimizers = [SlicedTorch(exchange, make=maker) for exchange in ranks]
            for optimizer in optimizers:
                optimizer.restore(FakeCheckpoint(saved))  # type: ignore[arg-type]
        for exchange, optimizer in zip(ranks, optimizers, strict=True):
            for number, bucket in enumerate(exchange.gradients):
                bucket.copy_(torch.randn(len(bucket), generator=torch.Generator().manual_seed(100 * step + number)))
            optimizer.step(step + 1, learning_rate=0.01 / (step + 1), divisor=3.0)
    for exchange in ranks:
        for bucket, (start, stop) in enumerate(exchange.slices):
            whole[bucket][start:stop] = exchange.parameters[bucket][start:stop]
    return whole


class FakeCheckpoint:
    """The pieces of a checkpoint, straight from the ranks' states."""

    def __init__(self, saved: list[dict[str, torch.Tensor]]) -> None:
        self._saved = saved

    def pieces(self) -> Iterator[Any]:
        for state in self._saved:
            for name, tensor in state.items():
                kind, bucket, start, stop = name.split("/")
                read = lambda begin, end, tensor=tensor: tensor if begin is None else tensor[begin:end]  # noqa: E731
                yield kind, bucket, int(start), int(stop), read


@pytest.mark.parametrize(("name", "options"), ELEMENTWISE, ids=[f"{name}-{len(options)}" for name, options in ELEMENTWISE])
def test_bits_do_not_hang_on_the_cut_or_on_a_restart(name: str, options: dict[str, Any], exchanges: Any) -> None:
    alone = steps(name, options, 1, exchanges)
    for world_size, restart_at in ((2, -1), (4, 3)):
        shared = steps(name, options, world_size, exchanges, restart_at=restart_at)
        assert all(torch.equal(one, two) for one, two in zip(alone, shared, strict=True))


def test_steps_are_those_of_whole_tensors(exchanges: Any) -> None:
    found = LAYOUT.views(steps("SGD", {"momentum": 0.9}, 2, exchanges))
    begun = LAYOUT.views(
        [torch.randn(size, generator=torch.Generator().manual_seed(number)) for number, size in enumerate(LAYOUT.bucket_sizes)]
    )
    whole = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in begun.items()}
    optimizer = torch.optim.SGD(whole.values(), lr=0.01, momentum=0.9)
    for step in range(6):
        buckets = [
            torch.randn(size, generator=torch.Generator().manual_seed(100 * step + number))
            for number, size in enumerate(LAYOUT.bucket_sizes)
        ]
        for name, gradient in LAYOUT.views(buckets).items():
            whole[name].grad = gradient / 3.0
        optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
        optimizer.step()
    assert all(torch.allclose(found[name], tensor.detach(), rtol=1e-6, atol=1e-7) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["Adafactor", "LBFGS", "Muon", "SparseAdam"])
def test_optimizers_of_whole_tensors_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"optimizer {name} needs whole tensors"):
        optimizer_maker(getattr(torch.optim, name), {}, learning_rate=0.01)


def test_wrong_options_are_told() -> None:
    with pytest.raises(InputError, match=r"optimizer Adam cannot be made: .*momentum.*See optimizerArgs"):
        optimizer_maker(torch.optim.Adam, {"momentum": 0.9}, learning_rate=0.01)
    with pytest.raises(InputError, match=r"optimizer <lambda> made a list"):
        optimizer_maker(lambda parameters, lr: parameters, {}, learning_rate=0.01)
