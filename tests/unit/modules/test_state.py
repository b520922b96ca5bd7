"""Modules by their state: whatever people write comes back as it was, without its constructor, or is refused by name."""

from __future__ import annotations

import enum
import functools
import json
import math
import threading
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.modules import carried as carrying
from ts4s_core.modules.carried import carried, is_nameless, receive
from ts4s_core.modules.job_module import make_module, saved_module
from ts4s_core.modules.losses import AnyLoss, loss_spec
from ts4s_core.modules.saved import SavedModule
from ts4s_core.modules.trust import check_trusted, import_path
from ts4s_core.process_state import PROCESS


class Colour(enum.Enum):
    RED = 1


class Made(nn.Module):
    """Takes modules, and keeps no argument under its own name."""

    calls = 0

    def __init__(self, body: nn.Module, head: nn.Module, *, gain: float) -> None:
        super().__init__()
        type(self).calls += 1
        self.first, self.last, self.factor = body, head, gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x))) * self.factor


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.one.weight
        self.blocks = nn.ModuleList([self.one])  # the same child twice
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)), persistent=False)
        self.register_buffer("kept", torch.full((4,), 2.0))
        self.places = torch.arange(4.0)
        self.options = types.SimpleNamespace(nothing=math.nan, nested=[1, (2.5, {"three"})], colour=Colour.RED, names={1: None})
        self.activation = functools.partial(F.leaky_relu, negative_slope=0.3)
        self.chosen = self.shifted

    def shifted(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chosen(self.activation(self.blocks[0](self.tied(x)) @ self.mask)) * self.kept


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell = nn.Embedding(9, 4), nn.LSTM(4, 4, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.cell(self.table(x.abs().long()))[0]
        return found


def seeded(make: Any) -> nn.Module:
    torch.manual_seed(3)
    module: nn.Module = make()
    return module.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Made(nn.Linear(4, 5), Made(nn.Linear(5, 3), nn.Tanh(), gain=0.5), gain=3.0),
        Everything,
        Recurrent,
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation=F.gelu),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), parametrizations.orthogonal(nn.Linear(3, 3))
        ),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(),
    ],
    ids=["modules-of-modules", "everything", "recurrent", "encoder-layer", "encoder", "weight-norm", "double"],
)
def test_a_module_comes_back_as_it_was(make: Any) -> None:
    module, calls = seeded(make), Made.calls
    saved = saved_module(module)
    again = make_module(SavedModule.from_files(saved.to_files(), where="here")).eval()
    assert Made.calls == calls, "restored without its constructor"
    dtype = next(module.parameters()).dtype
    for seed in (1, 2):
        x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed))[:, 0].to(dtype)
        assert torch.equal(again(x), module(x))
    assert saved_module(again).to_files() == saved.to_files()
    assert dict(again.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert not any(data[:1] == b"\x80" for data in saved.to_files().values())


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_a_transformers_model_comes_back_as_it_was(family: str) -> None:
    import transformers

    sizes = {"Bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
             "DistilBert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}}[family]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(vocab_size=30, **sizes)
    module = seeded(lambda: getattr(transformers, f"{family}ForSequenceClassification")(config))
    again = make_module(SavedModule.from_files(saved_module(module).to_files(), where="here")).eval()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    mask = (ids > 0).long()
    assert torch.equal(again(input_ids=ids, attention_mask=mask).logits, module(input_ids=ids, attention_mask=mask).logits)
    PROCESS.clear()  # as another process
    with pytest.raises(InputError, match=r"'transformers.*which would be imported"):
        check_trusted(saved_module_paths(module))


def saved_module_paths(module: nn.Module) -> list[str]:
    paths = saved_module(module).paths
    PROCESS.clear()
    return paths


def locked() -> nn.Module:
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].guard = threading.Lock()
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (locked, r"Sequential\._modules\.0\.guard is a _thread\.lock, which cannot be described"),
        (lambda: nn.utils.weight_norm(nn.Linear(1, 1)), "has hooks.*parametrizations.weight_norm"),
        (lambda: torch.jit.script(nn.Linear(1, 1)), "which cannot be described"),
    ],
    ids=["lock", "hooks", "script"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_cannot_be_described_is_named(make: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        saved_module(make())


def test_what_cannot_be_imported_is_carried_by_a_name_that_no_file_may_name() -> None:
    class Local(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 7

    module = seeded(lambda: Local(2, 1))
    saved = saved_module(module)
    things = carried(saved.paths)
    assert things == {saved.paths[0]: Local}
    assert is_nameless(saved.paths[0])
    assert import_path(Local) == saved.paths[0]
    x = torch.ones(1, 2)
    PROCESS.clear()  # as a worker
    with pytest.raises(InputError, match="which would be imported: expected module:name"):
        make_module(saved)
    receive(things)
    assert torch.equal(make_module(saved).eval()(x), module(x))


def test_the_running_program_is_never_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(nn.Linear):
        pass

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    monkeypatch.setattr(carrying, "main_name", lambda: "a_script_of_nobody")
    path = import_path(Mine)
    assert path == "a_script_of_nobody:Mine"
    check_trusted([path])
    assert type(make_module(saved_module(Mine(2, 1)))) is Mine


def test_a_state_names_only_what_is_trusted() -> None:
    saved = saved_module(nn.Sequential(nn.Linear(2, 1)))
    for place, value in (("class", "subprocess:Popen"), ("class", "torch.nn.modules.module:register_module_forward_hook")):
        spec = json.loads(json.dumps(saved.spec))
        spec["objects"][1][place] = value
        with pytest.raises(InputError, match=r"which would be imported|expected a class of torch\.nn"):
            make_module(SavedModule(spec, saved.weights))
    spec["objects"][1]["class"] = "torch.nn:Linear"
    spec["objects"][1]["state"]["act"] = {"name": "os:system"}
    assert "os:system" in SavedModule(spec, None).paths
    with pytest.raises(InputError, match="'os:system', which would be imported"):
        make_module(SavedModule(spec, saved.weights))
    spec["objects"][1]["state"]["act"] = {"eval": "1"}
    with pytest.raises(InputError, match="'eval' is no kind of value"):
        make_module(SavedModule(spec, saved.weights))


class Focal(nn.Module):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.exponent = power
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 4.0]))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chosen = torch.log_softmax(output, 1).gather(1, target[:, None])[:, 0]
        return (-((1 - chosen.exp()) ** self.exponent) * chosen * self.scale[target]).mean()


@pytest.mark.parametrize(
    "loss", [Focal(2.0), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])), nn.CrossEntropyLoss(ignore_index=1)]
)
def test_loss_objects_weigh_as_they_do_in_a_plain_loop(loss: nn.Module) -> None:
    again = AnyLoss(json.loads(json.dumps(loss_spec(loss, None))))
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    found = again(logits, types.SimpleNamespace(labels=labels))
    assert found.value / found.items == pytest.approx(loss(logits, labels).item(), rel=1e-6)
