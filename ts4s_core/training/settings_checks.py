"""How workers combine what they learn: which strategies there are, and which settings fix their results.

``synchronous`` promises one result for any number of workers, ``averaging`` one for a fixed number, ``hogwild`` none.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from ts4s_core.errors import InputError
from ts4s_core.settings import Settings, TrainSettings
from ts4s_core.settings.spark_conf import DYNAMIC_ALLOCATION, by_name, check_static_executors

#: Settings that the weights never depend on.
_NOT_IN_STEP_KEY = ("max_restarts", "timeout_s", "checkpoint_every_steps", "prefetch_batches", "ledger")


def check_training(settings: Settings) -> None:
    """Refuse settings that training cannot be carried out with, before anything starts.

    Raises:
        InputError: if ``train.compile`` finds no compiler.
        SettingsError: if executors were to come and go.
    """
    check_strategy(settings.train)
    check_static_executors(by_name(settings.spark.conf).get(DYNAMIC_ALLOCATION, ""), where="spark.conf")


def check_strategy(train: TrainSettings) -> None:
    """Refuse settings that this machine cannot carry out, before anything starts.

    Raises:
        InputError: if ``train.compile`` finds no compiler.
    """
    if train.compile:
        check_compiler()


def check_compiler() -> None:
    """Check that the C++ compiler of ``torch.compile`` is there; torch is not imported.

    Raises:
        InputError: if there is no C++ compiler.
    """
    wanted = os.environ.get("CXX", "g++")
    if shutil.which(wanted) is None:
        raise InputError(
            f"train.compile true needs a C++ compiler: expected {wanted} on PATH (or another named by the variable CXX), "
            "found none. Install one, or leave train.compile off"
        )


def step_key_settings(train: TrainSettings, *, workers: int) -> dict[str, Any]:
    """The train settings that the weights depend on, and so the step key, as JSON values."""
    values = {name: value for name, value in train.model_dump(mode="json").items() if name not in _NOT_IN_STEP_KEY}
    if train.strategy == "synchronous":
        del values["workers"], values["averaging_frequency"]
    else:
        values["workers"] = workers
    return values
