from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from toy import Toy, ToyRows

from ts4s_core.errors import InputError
from ts4s_core.onnx.seeded_dropout import seed_dropout
from ts4s_core.settings import TrainSettings
from ts4s_core.training.exchange.buckets import attach, lay_out, trainable_parameters
from ts4s_core.training.exchange.exchange import Exchange, PrivateBuckets
from ts4s_core.training.optimizers.adamw import SlicedAdamW
from ts4s_core.training.settings_checks import check_strategy, step_key_settings
from ts4s_core.training.step.compiled_forward import compiled
from ts4s_core.training.step.engine import Engine, Forward
from ts4s_core.training.step.objectives import objective_for


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_strategy(TrainSettings())
    with pytest.raises(
        InputError, match=r"train\.compile true needs a C\+\+ compiler: expected no-such-compiler on PATH"
    ) as found:
        check_strategy(TrainSettings(compile=True))
    assert found.value.exit_code == 2


def test_settings_that_bear_on_the_weights():
    plain, compiled = (step_key_settings(TrainSettings(compile=flag), workers=2) for flag in (False, True))
    assert plain != compiled
    assert "workers" not in plain
    apart = step_key_settings(TrainSettings(strategy="averaging"), workers=2)
    assert (apart["workers"], apart["averaging_frequency"]) == (2, 0)


def engine_of(model: nn.Module, forward: Forward | None) -> Engine:
    parameters = trainable_parameters(model)
    layout = lay_out([(name, tuple(p.shape)) for name, p in parameters.items()])
    exchange = Exchange(layout, PrivateBuckets(layout), timeout_s=60)
    attach(parameters, exchange.layout.views(exchange.parameters), copy=True)
    optimizer = SlicedAdamW(exchange, weight_decay=0.01)
    more = {
        "objective": objective_for("classification"),
        "seed": 1,
        "parts": 1,
        "max_grad_norm": 1.0,
        "seed_dropout": seed_dropout,
    }
    return Engine(model, parameters, exchange, optimizer, forward=forward, **more)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's tracer looks
def test_a_traced_step_is_the_plain_one_up_to_rounding(monkeypatch: pytest.MonkeyPatch):
    """The whole way but for the kernels, whose making takes a minute; the long test below has them too."""
    traced = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic, options: traced(model, dynamic=dynamic, backend="aot_eager"))
    batch = ToyRows(24).read("train", [0]).batch(np.arange(12), pad_id=0)
    norms = []
    for model in (plain := Toy(), other := Toy()):
        engine = engine_of(model, compiled(model) if model is other else None)
        norms.append(engine.step([batch], step=0, rate=1e-2, flag=False, memory_mib=0.0).grad_norm)
        engine.close()
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[0] > 0
    for (name, weight), twin in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(twin, weight, atol=2e-3, rtol=0, msg=name)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_compiled_model_learns_the_same_up_to_rounding_and_has_one_hash(run, store):
    settings = {"max_steps": 4, "timeout_s": 300}
    plain = run(name="plain", workers=1, **settings)
    one, two = (run(name=f"w{workers}", workers=workers, compile=True, **settings) for workers in (1, 2))
    assert one.facts["weights_sha256"] == two.facts["weights_sha256"]
    weights = [load_file(store.local(result.ref) / "model.safetensors") for result in (plain, one)]
    for name in weights[0]:
        np.testing.assert_allclose(weights[1][name], weights[0][name], atol=2e-3, err_msg=name)
