from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ts4s_core.errors import TrainingError
from ts4s_core.training.exchange.buckets import attach, lay_out
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.step.gradient_tree import GradientTree
from ts4s_core.training.step.row_gradients import RowGradients

ROWS, WIDTH = 2_000, 40


class Model(nn.Module):
    def __init__(self, *, tied: bool, padding: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, ROWS if tied else 5, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.table(ids) + self.table(ids.flip(1)))))


def sums(*, by_rows: bool, tied: bool, padding: int | None, parts: int = 8) -> list[torch.Tensor]:
    """The summed gradient of two steps; part 3 has no rows."""
    model = Model(tied=tied, padding=padding)
    parameters = dict(model.named_parameters())
    layout = lay_out([(name, tuple(p.shape)) for name, p in parameters.items()], bucket_elements=1_000)
    exchange = Exchange(layout, PrivateBuckets(layout), timeout_s=10)
    attach(parameters, layout.views(exchange.parameters), copy=True)
    rows = RowGradients(model, parameters) if by_rows else None
    assert rows is None or rows.names == (frozenset() if tied else frozenset({"table.weight"}))
    tree = GradientTree(parameters, exchange, parts=parts, rows=rows)
    found = []
    for step in range(2):
        for part in range(parts):
            random = np.random.default_rng([step, part])
            tree.begin(part)
            if part != 3:
                model(torch.from_numpy(random.integers(0, 300, (6, 11)))).pow(2).sum().backward()
            tree.end()
        exchange.collect()
        found += [gradient.clone() for gradient in exchange.gradients]
    tree.close()
    exchange.close()
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("padding", [None, 0])
def test_rows_give_the_bits_of_the_dense_gradient(tied, padding):
    dense = sums(by_rows=False, tied=tied, padding=padding)
    by_rows = sums(by_rows=True, tied=tied, padding=padding)
    assert all(torch.equal(one, other) for one, other in zip(dense, by_rows, strict=True))
    assert any(bool(gradient.any()) for gradient in dense)


def test_a_table_that_is_used_behind_the_modules_back_is_refused():
    model = Model(tied=False, padding=None)
    parameters = dict(model.named_parameters())
    layout = lay_out([(name, tuple(p.shape)) for name, p in parameters.items()])
    exchange = Exchange(layout, PrivateBuckets(layout), timeout_s=10)
    tree = GradientTree(parameters, exchange, parts=1, rows=RowGradients(model, parameters))
    tree.begin(0)
    with pytest.raises(TrainingError, match=r"table\.weight"):
        (model(torch.tensor([[1, 2]])).sum() + model.table.weight.sum()).backward()
    tree.close()
    exchange.close()


def test_the_embedding_gets_its_own_backward_back():
    model = Model(tied=False, padding=None)
    rows = RowGradients(model, dict(model.named_parameters()))
    rows.close()
    model(torch.tensor([[1, 2]])).sum().backward()
    assert model.table.weight.grad is not None
