"""Losses in parts against PyTorch's own mean over the whole batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ts4s_core.errors import InputError
from ts4s_core.modules.losses import AnyLoss, loss_spec
from ts4s_core.modules.trust import trust


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.arange(12) % 3
WEIGHT = [0.2, 1.0, 3.0]


@pytest.mark.parametrize(
    ("loss", "arguments", "output", "labels"),
    [
        ("CrossEntropyLoss", {}, numbers(12, 3), CLASSES),
        ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.1}, numbers(12, 3), CLASSES),
        ("CrossEntropyLoss", {}, numbers(12, 3), numbers(12, 3, seed=2).softmax(1)),
        ("NLLLoss", {"weight": WEIGHT}, numbers(12, 3).log_softmax(1), CLASSES),
        ("MultiMarginLoss", {"margin": 0.5}, numbers(12, 3), CLASSES),
        ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2.0]}, numbers(12, 2), (numbers(12, 2, seed=3) > 0).float()),
        ("MSELoss", {}, numbers(12, 4), numbers(12, 4, seed=4)),
        ("SmoothL1Loss", {"beta": 0.3}, numbers(12, 1), numbers(12, 1, seed=4)),
        ("HuberLoss", {"delta": 0.7}, numbers(12, 1), numbers(12, 1, seed=4)),
        ("PoissonNLLLoss", {}, numbers(12, 1), numbers(12, 1, seed=4).abs()),
        ("torch.nn.functional:l1_loss", {}, numbers(12, 2), numbers(12, 2, seed=5)),
    ],
    ids=str,
)
def test_parts_add_up_to_the_mean(loss: str, arguments: dict[str, Any], output: torch.Tensor, labels: torch.Tensor) -> None:
    trust("torch.nn.functional:l1_loss")  # as the estimator does with what a program gives it
    made = AnyLoss(loss_spec(loss, arguments))
    parts = [made(output[rows], SimpleNamespace(labels=labels[rows])) for rows in (slice(0, 5), slice(5, 6), slice(6, 12))]
    mean = sum(part.value for part in parts) / sum(part.items for part in parts)
    if loss.startswith("torch"):
        expected = nn.functional.l1_loss(output, labels)
    else:
        tensors = {name: torch.tensor(arguments[name]) for name in ("weight", "pos_weight") if name in arguments}
        expected = getattr(nn, loss)(**{**arguments, **tensors})(output, labels)
    assert mean == pytest.approx(float(expected), rel=1e-6)


def test_a_loss_object_is_described() -> None:
    spec = loss_spec(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]), label_smoothing=0.25), {})
    assert spec["factory"] == "torch.nn:CrossEntropyLoss"
    assert spec["values"] == {"weight": ["<f4", [1.0, 2.0]]}
    state = spec["objects"][0]["state"]
    assert (state["ignore_index"], state["label_smoothing"], state["reduction"]) == (-100, 0.25, "mean")
    with pytest.raises(InputError, match="reduction 'sum'"):
        loss_spec(nn.HuberLoss(delta=0.5, reduction="sum"), {})
    with pytest.raises(InputError, match="lossArgs delta have no meaning"):
        loss_spec(nn.HuberLoss(), {"delta": 2.0})


def test_wrong_losses_are_refused() -> None:
    with pytest.raises(InputError, match=r"'CrossEntropy' is not in torch\.nn"):
        loss_spec("CrossEntropy", {})
    with pytest.raises(InputError, match="reduction 'sum'"):
        loss_spec("MSELoss", {"reduction": "sum"})
    with pytest.raises(InputError, match="cannot be built"):
        loss_spec("MSELoss", {"delta": 1})
    with pytest.raises(InputError, match=r"outputs of shape \(4, 2\) with labels of shape \(4, 1\)"):
        AnyLoss(loss_spec("MSELoss", {}))(numbers(4, 2), SimpleNamespace(labels=numbers(4, 1)))


def focal(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of one's own over classes, one a row."""
    right = output.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - right.exp()) ** 2) * right


def two_heads(kind: torch.Tensor, size: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Over two outputs: the first of a label's two numbers is a class."""
    return nn.functional.cross_entropy(kind, target[:, 0].long()) + nn.functional.mse_loss(size[:, 0], target[:, 1])


HERE = f"{__name__}:"


@pytest.mark.parametrize(
    ("loss", "arguments", "output", "labels"),
    [
        ("CrossEntropyLoss", {}, numbers(12, 3), CLASSES),
        ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": 1}, numbers(12, 3), CLASSES),
        ("MSELoss", {}, numbers(12, 4), numbers(12, 4, seed=4)),
        (f"{HERE}focal", {}, numbers(12, 3), CLASSES),
    ],
    ids=str,
)
def test_a_row_of_weight_two_counts_as_two_rows(
    loss: str, arguments: dict[str, Any], output: torch.Tensor, labels: torch.Tensor
) -> None:
    trust(f"{HERE}focal")
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0] * 3)
    made = AnyLoss(loss_spec(loss, arguments), weighted=True)
    parts = [
        made(output[rows], SimpleNamespace(labels=labels[rows], weights=weights[rows])) for rows in (slice(0, 5), slice(5, 12))
    ]
    again = torch.repeat_interleave(torch.arange(12), weights.long())
    whole = AnyLoss(loss_spec(loss, arguments))(output[again], SimpleNamespace(labels=labels[again]))
    assert sum(part.value for part in parts) == pytest.approx(whole.value, rel=1e-5)
    assert sum(part.items for part in parts) == pytest.approx(whole.items, rel=1e-6)
    assert sum(float(part.total) for part in parts) == pytest.approx(whole.value, rel=1e-5)


def test_a_mean_has_no_rows_to_weigh() -> None:
    trust("torch.nn.functional:l1_loss")
    made = AnyLoss(loss_spec("torch.nn.functional:l1_loss", {}), weighted=True)
    with pytest.raises(InputError, match="weightCol needs a loss for each row"):
        made(numbers(3, 1), SimpleNamespace(labels=numbers(3, 1), weights=torch.ones(3)))


def test_a_loss_of_ones_own_gets_labels_of_any_number() -> None:
    trust(f"{HERE}two_heads")
    made = AnyLoss(loss_spec(f"{HERE}two_heads", {}))
    kind, size, labels = numbers(6, 3), numbers(6, 1, seed=1), torch.stack([torch.arange(6) % 3, torch.arange(6)], 1).float()
    part = made((kind, size), SimpleNamespace(labels=labels))
    assert part.value / part.items == pytest.approx(float(two_heads(kind, size, labels)))
    with pytest.raises(InputError, match="expected as many numbers"):
        AnyLoss(loss_spec("MSELoss", {}))(size, SimpleNamespace(labels=labels))
