"""Modules as graphs of operators: they answer as their class does, for any number of rows, or it is said why not."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.modules.carried import nameless_among
from ts4s_core.modules.inputs import InputForm
from ts4s_core.modules.job_module import make_module, saved_module
from ts4s_core.modules.predicting import as_program
from ts4s_core.modules.saved import SavedModule
from ts4s_core.modules.trust import check_trusted
from ts4s_core.process_state import PROCESS


class Gated(nn.Module):
    """Numbers: tensors of every kind, dropout as a function, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.tied = nn.Linear(4, 6)
        self.tied.weight = self.a.weight
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.register_buffer("gone", torch.arange(3.0), persistent=False)
        self.plain = torch.tensor([1.0, -1.0, 0.5])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = F.dropout(torch.relu(self.a(x)) * torch.sigmoid(self.tied(x)), 0.3, self.training)
        hidden = hidden.view(len(x), -1)
        return self.b(hidden) * self.scale + self.gone, hidden.mean(1, keepdim=True) * self.plain


class Reader(nn.Module):
    """Tokens of any length through a recurrent layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.layer = getattr(nn, kind)(6, 5, batch_first=True, bidirectional=True, num_layers=2)
        self.out = nn.Linear(10, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.layer(self.table(ids))[0][:, -1])
        return found


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(20, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.table(input_ids)
        x, _weights = self.mix(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)
        kept = attention_mask[:, :, None].to(x.dtype)
        return {"logits": self.out((x * kept).sum(1) / kept.sum(1).clamp(min=1))}


NUMBERS = InputForm(widths=(4,))
ROWS = ([0.5, 1.0, -1.0, 2.0], [3.0, 0.0, 1.0, 1.0])
TOKENS = InputForm(whole=True, tokens=1)
TEXTS = ([1, 2, 3], [4, 5, 6, 7, 8])
MASKED = InputForm(whole=True, tokens=1, names=("input_ids", "attention_mask"), mask=True)


def as_saved(module: nn.Module, form: InputForm, rows: Any, *, learns: bool = True) -> SavedModule:
    """The module's graph, as another process reads it."""
    from dataclasses import replace

    found = as_program(replace(saved_module(module), form=form, rows=rows), learns=learns)
    return SavedModule.from_files(found.to_files(), where="here")


def given(form: InputForm, *, rows: int, tokens: int) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(rows)
    if not form.tokens:
        return (torch.randn(rows, 4, generator=draw),)
    ids = torch.randint(0, 20, (rows, tokens), generator=draw)
    return (ids, (torch.arange(tokens) < tokens - 1).long().expand(rows, -1)) if form.mask else (ids,)


@pytest.mark.parametrize(
    ("make", "form", "rows"),
    [
        (Gated, NUMBERS, ROWS),
        (lambda: Reader("LSTM"), TOKENS, TEXTS),
        (lambda: Reader("GRU").double(), TOKENS, TEXTS[:1]),
        (Masked, MASKED, TEXTS),
    ],
    ids=["numbers", "lstm", "gru of doubles", "attention"],
)
def test_a_graph_answers_as_its_class(make: Any, form: InputForm, rows: Any) -> None:
    torch.manual_seed(2)
    module = make().eval()
    saved = as_saved(module, form, rows)
    PROCESS.clear()  # as another process
    assert saved.paths == []
    check_trusted(saved.paths)
    again = make_module(saved).eval()
    assert dict(again.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert saved.weights_sha256() == saved_module(module).weights_sha256()
    for count, tokens in ((1, 1), (7, 2), (300, 9)):
        inputs = given(form, rows=count, tokens=tokens)
        expected = module(*inputs)
        expected = expected["logits"] if isinstance(expected, dict) else expected
        found = again(*inputs)
        for own, other in zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]:
            torch.testing.assert_close(other, own, rtol=1e-5, atol=1e-5)
    assert not module.training
    # In training it draws the same bits, and its gradients are the class's.
    inputs = given(form, rows=5, tokens=4)
    gradients = []
    for each in (module, again, copy.deepcopy(again)):
        torch.manual_seed(4)
        output = each.train()(*inputs)
        (output["logits"] if isinstance(output, dict) else output[0] if isinstance(output, tuple) else output).sum().backward()
        gradients.append([one.grad for one in each.parameters()])
    for own, other, third in zip(*gradients, strict=True):
        torch.testing.assert_close(other, own, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(third, other, rtol=0, atol=0)


def test_a_graph_is_a_module_like_others() -> None:
    """It is described as a part of another module, and its inputs have their names."""
    import inspect

    again = make_module(as_saved(Masked(), MASKED, TEXTS))
    assert list(inspect.signature(again.forward).parameters) == ["input_ids", "attention_mask"]
    inputs = given(MASKED, rows=2, tokens=3)
    by_name = again.eval()(attention_mask=inputs[1], input_ids=inputs[0])
    assert torch.equal(by_name, again(*inputs))
    whole = nn.ModuleDict({"inside": again})
    saved = SavedModule.from_files(saved_module(whole).to_files(), where="here")
    PROCESS.clear()  # as another process, which trusts nobody
    check_trusted(saved.paths)
    assert torch.equal(make_module(saved).eval()["inside"](*inputs), by_name)  # type: ignore[index]


class ByNumbers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class ByRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if len(x) < 50 else x


class TwoRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 4)


class ByLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum(1) if ids.shape[1] < 20 else self.table(ids).mean(1)


class Alone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 5 if len(x) == 1 else x


@pytest.mark.parametrize(
    ("module", "form", "rows", "message"),
    [
        (ByNumbers(), NUMBERS, ROWS, "data-dependent"),
        (ByRows(), NUMBERS, ROWS, "another thing for more than 49 rows"),
        (TwoRows(), NUMBERS, ROWS, "takes 2 rows at a time"),
        (ByLength(), TOKENS, TEXTS, r"graph fails on inputs of shape \(2, 20\)"),
        (Alone(), NUMBERS, ROWS, r"answers otherwise on inputs of shape \(1, 4\)"),
    ],
    ids=["numbers", "rows", "two rows", "length", "one row"],
)
def test_what_is_no_graph_is_refused_with_the_reason(module: nn.Module, form: InputForm, rows: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"^{type(module).__name__} has no import path.*{message}"):
        as_saved(module, form, rows, learns=False)


def test_a_module_that_learns_otherwise_than_its_graph_only_predicts() -> None:
    """Batch normalisation counts, which a graph of operators does outside of torch's own layers."""
    saved = as_saved(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), NUMBERS, ROWS)
    assert "train" not in saved.spec["program"]
    with pytest.raises(InputError, match="only predicts"):
        make_module(saved).train()(torch.ones(2, 4))


@pytest.mark.parametrize(
    "operator", ["aten.from_file.default", "subprocess.Popen.default", "aten.__class__.default", "prims.add.default", 7]
)
def test_a_file_calls_nothing_but_operators(operator: Any) -> None:
    saved = as_saved(nn.Sequential(nn.Linear(4, 3)), NUMBERS, ROWS)
    spec = json.loads(json.dumps(saved.spec))
    spec["program"]["eval"]["steps"][0][0] = operator
    with pytest.raises(InputError, match=r"expected an operator of torch's own|which this torch"):
        make_module(SavedModule(spec, saved.weights))
    spec = json.loads(json.dumps(saved.spec))
    spec["program"]["eval"]["steps"][0][1].append({"torch": "load"})
    with pytest.raises(InputError, match=r"names torch\.load: expected a type"):
        make_module(SavedModule(spec, saved.weights)).eval()(torch.ones(1, 4))


def test_only_what_nobody_can_import_is_a_graph() -> None:
    class Local(nn.Linear):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nameless_among(saved_module(nn.Sequential(nn.Linear(1, 1))).paths) is None
        name = nameless_among(saved_module(nn.Sequential(Local(1, 1))).paths)
    assert name is not None
    assert name.endswith(":test_only_what_nobody_can_import_is_a_graph.<locals>.Local")
