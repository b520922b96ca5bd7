"""Modules as descriptions: what is built anew is the same, what would not be is refused."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ts4s_core.errors import InputError, IntegrityError, UnsupportedModelError
from ts4s_core.modules import trust as trusting
from ts4s_core.modules.job_module import make_module, saved_module
from ts4s_core.modules.saved import MODEL, WEIGHTS, SavedModule, weights_of
from ts4s_core.modules.spec import build, describe, paths_of, spec_of_call
from ts4s_core.modules.trust import check_trusted, find, trust
from ts4s_core.process_state import PROCESS


def cnn() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 4, (3, 3), padding=1, bias=False),
            norm=nn.BatchNorm2d(4, momentum=0.2),
            act=nn.LeakyReLU(0.1),
            pool=nn.MaxPool2d((2, 2)),
            drop=nn.Dropout2d(0.25),
            flat=nn.Flatten(),
            head=nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10)),
        )
    )


@pytest.mark.parametrize(
    "module",
    [
        cnn(),
        nn.ModuleList([nn.Embedding(9, 4, padding_idx=0), nn.GRU(4, 5, num_layers=2, batch_first=True)]),
        nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        nn.Bilinear(3, 4, 2),
    ],
    ids=["cnn", "recurrent", "attention", "bilinear"],
)
def test_a_module_is_built_anew_from_its_description(module: nn.Module) -> None:
    saved = SavedModule.from_files(saved_module(module).to_files(), where="here")
    again = make_module(saved)
    assert saved_module(again).to_files() == saved_module(module).to_files()
    assert {path.split(":")[0] for path in saved.paths} <= {"torch.nn", "torch.nn.modules.linear"}
    PROCESS.clear()  # as another process, which trusts torch.nn alone
    check_trusted(saved.paths)


def test_outputs_are_the_same_to_the_bit() -> None:
    module = cnn().eval()
    saved = saved_module(module)
    again = SavedModule.from_files(saved.to_files(), where="here")
    found = make_module(again).eval()
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found(x), module(x))
    assert again.weights_sha256() == saved.weights_sha256()


def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "networks_of_a_test.py").write_text(f"from torch import nn\n\n{text}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib
    import sys

    sys.modules.pop("networks_of_a_test", None)
    importlib.invalidate_caches()


def test_frozen_weights_stay_frozen() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    again = build(json.loads(json.dumps(describe(module)[0])))
    assert [parameter.requires_grad for parameter in again.parameters()] == [False, False, True, True]


def test_hooks_and_arguments_that_are_no_json_are_refused() -> None:
    hooked = nn.Linear(2, 1)
    hooked.register_forward_hook(lambda *_args: None)
    with pytest.raises(UnsupportedModelError, match="has hooks"):
        describe(hooked)
    with pytest.raises(UnsupportedModelError, match="cannot be kept"):
        spec_of_call("torch.nn:Linear", {"in_features": torch.tensor(2)})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"factory": "torch.nn:Nothing"}, "module:name that every worker can import"),
        ({"factory": "no_such_module:Net"}, "No module named 'no_such_module'"),
        ({"factory": "torch.nn:Linear", "arguments": {"in": 2}}, "Give its keyword arguments in moduleArgs"),
        ({"factory": "json:dumps", "arguments": {"obj": 1}}, "made a str: expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(spec: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusting, "_trusted", lambda: {"no_such_module", "json"})
    with pytest.raises(InputError, match=message):
        build(spec)


def test_random_weights_hang_on_the_seed_alone() -> None:
    spec = spec_of_call(nn.Linear, {"in_features": 4, "out_features": 4})
    torch.manual_seed(99)
    one = build(spec, seed=3)
    before = torch.rand(1)
    torch.manual_seed(99)
    two = build(spec, seed=3)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(before, torch.rand(1))  # the caller's own stream is left alone
    assert not torch.equal(one.weight, build(spec, seed=4).weight)


def test_a_saved_model_names_only_what_is_trusted() -> None:
    check_trusted(["torch.nn:Linear", "torch.optim:Adam"])
    for path in ("os:system", "torch.nn.utils:parametrize", "torch:load", "torch.nn:functional.linear", "torchnn:x"):
        with pytest.raises(InputError, match="which would be imported"):
            check_trusted([path])
    check_trusted(["mine.nets:Net"], also=["mine"])
    with pytest.raises(InputError, match="'minex"):
        check_trusted(["minex:Net"], also=["mine"])
    trust("theirs.nets:Net")
    check_trusted(["theirs.nets:Net"])
    with pytest.raises(InputError, match=r"Call ts4s_core\.spark\.trust\('theirs\.nets'\)"):
        check_trusted(["theirs.nets:Other"])


PLANTED = """
import os
from pathlib import Path
Path(os.environ["PLANTED_SIGN"]).write_text("imported")
from os import system
class Net:
    pass
class Outer:
    inner = os.system
"""


@pytest.mark.parametrize(
    "path",
    ["planted_of_a_test", "planted_of_a_test:", ":Net", "", "planted_of_a_test:Net", "planted_of_a_test.Net", "a b:c", "x:y\n",
     "../x:y", "planted_of_a_test:os.system", "torch.nn", "torch.nn:modules.linear.Linear", "torch.nn:__builtins__.x"],
)  # fmt: skip
def test_the_only_importer_refuses_what_nobody_vouched_for(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_of_a_test.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PLANTED_SIGN", str(tmp_path / "sign"))
    for refused in (lambda: find(path), lambda: build({"factory": path, "arguments": {}})):
        with pytest.raises(InputError, match="which would be imported"):
            refused()
    assert "planted_of_a_test" not in sys.modules
    assert not (tmp_path / "sign").exists()


def test_a_trusted_module_vouches_for_its_own_things_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vouched_of_a_test.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PLANTED_SIGN", str(tmp_path / "sign"))
    held = {"vouched_of_a_test"}
    monkeypatch.setattr(trusting, "_trusted", lambda: held)
    assert find("vouched_of_a_test:Net").__name__ == "Net"
    for path in ("vouched_of_a_test:system", "vouched_of_a_test:os.system", "vouched_of_a_test:Outer.inner"):
        with pytest.raises(InputError, match=r"only a class has inner names|own: expected what the module itself defines"):
            find(path)
    trust("vouched_of_a_test:system")
    assert find("vouched_of_a_test:system").__name__ == "system"


def test_a_description_that_is_none_is_refused() -> None:
    for spec in ([], {"children": []}, {"children": {"a": "torch.nn:Linear"}}, "torch.nn:Linear"):
        with pytest.raises(InputError, match="describes no module"):
            list(paths_of(spec))


def test_damaged_files_are_refused() -> None:
    files, other = saved_module(nn.Linear(2, 1)).to_files(), saved_module(nn.Linear(2, 1)).to_files()
    with pytest.raises(IntegrityError, match="other weights than were saved"):
        SavedModule.from_files({**files, WEIGHTS: other[WEIGHTS]}, where="x")
    with pytest.raises(IntegrityError, match="cannot be read"):
        SavedModule.from_files({**files, MODEL: files[MODEL][:-9]}, where="x")
    with pytest.raises(IntegrityError, match="cannot be read"):
        SavedModule.from_files({**files, WEIGHTS: files[WEIGHTS][:9]}, where="x")


def test_weights_that_do_not_fit_are_listed() -> None:
    weights = {"weight": np.zeros((1, 2), np.float32), "gain": np.zeros(1, np.float32)}
    with pytest.raises(UnsupportedModelError, match=r"no bias, unknown gain"):
        make_module(SavedModule(describe(nn.Linear(2, 1))[0], weights))


def test_tied_weights_are_kept_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert sorted(weights_of(module)) == ["0.bias", "0.weight", "1.bias"]
