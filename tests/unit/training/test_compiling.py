from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ts4s_core.errors import InputError
from ts4s_core.settings import TrainSettings
from ts4s_core.training.strategies import bearing_settings, check_strategy


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_strategy(TrainSettings())
    with pytest.raises(
        InputError, match=r"train\.compile true needs a C\+\+ compiler: expected no-such-compiler on PATH"
    ) as found:
        check_strategy(TrainSettings(compile=True))
    assert found.value.exit_code == 2


def test_settings_that_bear_on_the_weights():
    plain, compiled = (bearing_settings(TrainSettings(compile=flag), workers=2) for flag in (False, True))
    assert plain != compiled
    assert "workers" not in plain
    apart = bearing_settings(TrainSettings(strategy="averaging"), workers=2)
    assert (apart["workers"], apart["averaging_frequency"]) == (2, 0)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_a_compiled_step_is_the_plain_one_up_to_rounding(run, store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    settings = {"workers": 1, "max_steps": 1, "logical_shards": 1, "timeout_s": 250}
    plain, compiled = (run(name=f"compiled-{flag}", compile=flag, **settings) for flag in (False, True))
    weights = [load_file(store.local(result.ref) / "model.safetensors") for result in (plain, compiled)]
    assert compiled.facts["steps"] == 1
    assert any((tmp_path / "kernels").rglob("*.so"))
    for name in weights[0]:
        np.testing.assert_allclose(weights[1][name], weights[0][name], atol=2e-3, err_msg=name)


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
