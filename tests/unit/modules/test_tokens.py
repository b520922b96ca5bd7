"""Rows of token ids: padded by length, masked, given by name; outputs that are maps; what a few rows show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from ts4s_core.errors import InputError, SettingsError
from ts4s_core.modules.inputs import InputForm, named_arguments, token_form
from ts4s_core.modules.job_module import OnDevice, check_device, forward_of, in_turn, saved_module
from ts4s_core.modules.losses import AnyLoss, loss_spec
from ts4s_core.modules.predicting import Predictor, try_rows
from ts4s_core.modules.table_rows import TokenBlock

ROWS = [[3, 4, 5], [6], [7, 8], [2, 2, 2]]


class Mean(nn.Module):
    """Averages what the mask keeps, and gives a map as Transformers does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: torch.Tensor, past: None = None, attention_mask: torch.Tensor | None = None) -> Any:
        assert attention_mask is not None
        kept = attention_mask[:, :, None].float()
        return {"loss": None, "logits": self.out((self.table(input_ids) * kept).sum(1) / kept.sum(1))}


class Last(nn.Module):
    """Sees its padding: it has no mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.cell = nn.Embedding(9, 4), nn.GRU(4, 3, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.cell(self.table(ids))[0][:, -1]
        return found


def single(module: nn.Module, row: list[int]) -> list[float]:
    ids = torch.tensor([row])
    found = module(ids, attention_mask=torch.ones_like(ids))["logits"] if isinstance(module, Mean) else module(ids)
    values: list[float] = found[0].tolist()
    return values


@pytest.mark.parametrize("make", [Mean, Last])
def test_predictions_of_a_row_are_its_own_whatever_stands_beside_it(make: Any) -> None:
    module = make().eval()
    form = token_form(InputForm(), module.forward, columns=1)
    assert form.names == (("input_ids", "attention_mask") if make is Mean else ())
    predictor = Predictor(saved_module(module), form, batch_size=2, device="cpu", threads=1)
    found = predictor.predict(pa.array([*ROWS, None], pa.list_(pa.int32()))).to_pylist()
    assert found[-1] is None
    for row, one in zip(ROWS, found, strict=False):
        assert one["raw"] == pytest.approx(single(module, row), abs=1e-6)


def test_columns_are_padded_each_with_its_own() -> None:
    form = token_form(InputForm(names=("input_ids", "token_type_ids", "attention_mask"), pad_id=9), Mean().forward, columns=3)
    assert form.mask is False
    values = np.array([1, 2, 0, 1, 1, 1, 5, 1, 1], np.int32)
    block = TokenBlock(values, np.array([0, 6, 9]), np.array([0, 1]), [b"a", b"b"], form)
    assert block.lengths.tolist() == [2, 1]
    batch = block.batch(np.array([1, 0]), pad_id=0)
    assert [piece.tolist() for piece in batch.inputs] == [[[5, 9], [1, 2]], [[1, 0], [0, 1]], [[1, 0], [1, 1]]]
    assert (batch.tokens, batch.padded_tokens, batch.labels.tolist()) == (3, 4, [1, 0])
    assert InputForm.from_json(form.to_json()) == form


def test_a_part_trains_as_its_rows_do() -> None:
    module = Mean()
    form = token_form(InputForm(), module.forward, columns=1)
    flat = np.concatenate([np.array(row, np.int32) for row in ROWS])
    block = TokenBlock(flat, np.array([0, 3, 4, 6, 9]), np.array([0, 1, 2, 1]), [b""] * 4, form)
    forward = forward_of(module, "cpu", names=form.names)
    assert forward is not None
    batch = block.batch(np.arange(4), pad_id=0)
    loss = AnyLoss(loss_spec("CrossEntropyLoss", {}))(forward(*batch.inputs), batch)
    logits = torch.tensor([single(module, row) for row in ROWS])
    assert loss.value / loss.items == pytest.approx(
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).item(), rel=1e-6
    )


def test_names_of_arguments() -> None:
    forward = Mean().forward
    assert named_arguments(forward, ["input_ids", "attention_mask"], given=[]) == ("input_ids", "attention_mask")
    assert named_arguments(forward, ["a", "b"], given=[]) == ()
    assert named_arguments(forward, ["a", "b"], given=["attention_mask", "input_ids"]) == ("attention_mask", "input_ids")
    for given in (["input_ids"], ["input_ids", "mask"], ["input_ids", "input_ids"]):
        with pytest.raises(SettingsError, match=r"expected one of forward's arguments \(input_ids, past, attention_mask\)"):
            named_arguments(forward, ["a", "b"], given=given)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1, 12]], "forward fails on the first rows: IndexError.*the largest number 12"), ([[1, -3]], "forward fails.*IndexError")],
)
def test_token_ids_beyond_the_table_are_found_by_a_few_rows(rows: list[list[int]], message: str) -> None:
    module = Last().eval()
    with pytest.raises(InputError, match=message):
        try_rows(module, token_form(InputForm(), module.forward, columns=1), rows)


def test_a_loss_that_does_not_take_the_outputs_is_found_by_a_few_rows() -> None:
    module, form = nn.Linear(2, 3), InputForm(widths=(2,))
    assert try_rows(module, form, [[1.0, 2.0]]) == 3
    with pytest.raises(InputError, match=r"outputs of shape \(1, 3\) with labels of shape \(1, 2\).*labelCol \(None: the"):
        try_rows(module, form, [[1.0, 2.0]], objective=AnyLoss(loss_spec("MSELoss", {})), labels=torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"The loss fails on the first rows: .*multi-target"):
        try_rows(
            module, form, [[1.0, 2.0]], objective=AnyLoss(loss_spec("NLLLoss", {})), labels=torch.zeros(1, 2, dtype=torch.int64)
        )
    own = AnyLoss({"factory": "torch.nn.functional:nll_loss", "arguments": {}})
    with pytest.raises(
        InputError,
        match=r"The loss fails .* \(outputs \(1, 3\) float32, labels \(1, 1\) float32\)\. .*labelKind: with class",
    ):
        try_rows(module, form, [[1.0, 2.0]], objective=own, labels=torch.zeros(1, 1))
    with pytest.raises(InputError, match=r"forward fails on the first rows: RuntimeError.*inputs \(1, 3\) float32"):
        try_rows(module, InputForm(widths=(3,)), [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", "cuda:x"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(SettingsError, match=f"device '{device}' is not valid: expected cpu, cuda or cuda:N"):
        check_device(device, here=False)


def test_gpus_of_a_host_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_turn("cuda", 3) == "cuda"  # none is here
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [in_turn("cuda", number) for number in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert in_turn("cuda:1", 0) == "cuda:1"
    assert in_turn("cpu", 1) == "cpu"


def test_weights_go_to_the_device_once_a_step() -> None:
    module, x = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    there = OnDevice(module, "cpu")
    seen = []
    for step, part in ((0, 0), (0, 1), (1, 0)):
        there.begin(module, 5, step, part=part)
        there(x).square().sum().backward()
        seen.append(id(there._weights()))
    assert seen[0] == seen[1]
    with torch.no_grad():
        first = there._weights()
        assert there._weights() is first
        there.begin(module, 5, 2, part=0)
        assert there._weights() is not first
