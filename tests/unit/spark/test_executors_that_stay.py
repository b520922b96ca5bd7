"""Training refuses executors that come and go, wherever that was set; what trains nothing takes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, load_settings
from ts4s_core.settings.spark_conf import DYNAMIC_ALLOCATION
from ts4s_core.spark.execution.barrier_launcher import BarrierLauncher
from ts4s_core.training.settings_checks import check_training


def settings(value: str) -> Settings:
    return load_settings({"spark": {"conf": [f"{DYNAMIC_ALLOCATION}={value}"]}}, environ={})


def test_settings_that_say_so_are_refused_for_training_alone() -> None:
    check_training(settings("false"))
    with pytest.raises(
        SettingsError, match=r"spark\.conf has spark\.dynamicAllocation\.enabled=true.*Set it to false"
    ) as refused:
        check_training(settings("true"))
    assert refused.value.exit_code == 2


def test_an_application_that_has_it_is_refused_before_its_stage() -> None:
    sizes = {DYNAMIC_ALLOCATION: "True"}  # as spark-submit, or the platform's defaults below it, had it
    conf = SimpleNamespace(get=lambda name, default: sizes.get(name, default))
    session: Any = SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: conf, master="yarn"))
    launcher = BarrierLauncher(lambda: session, threads_per_worker=1, workers=2)
    with pytest.raises(SettingsError, match=r"application on yarn has spark\.dynamicAllocation\.enabled=true"):
        launcher.slots()
