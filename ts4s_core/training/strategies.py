"""How workers combine what they learn: which strategies there are, and which settings fix their results.

``synchronous`` promises one result for any number of workers. Others join here with what they promise.
"""

from __future__ import annotations

from typing import Any

from ts4s_core.errors import InputError
from ts4s_core.settings import TrainSettings

#: Settings that never bear on the weights.
_NO_BEARING = ("max_restarts", "timeout_s", "checkpoint_every_steps", "prefetch_batches", "ledger")
AVAILABLE = ("synchronous",)


def check_strategy(train: TrainSettings) -> None:
    """Refuse a strategy before anything starts.

    Raises:
        InputError: if it is not there.
    """
    if train.strategy not in AVAILABLE:
        raise InputError(
            f"train.strategy {train.strategy} is not available yet: expected {' or '.join(AVAILABLE)}. Use one of these"
        )


def bearing_settings(train: TrainSettings, *, workers: int) -> dict[str, Any]:
    """The train settings that the weights hang on, as JSON values."""
    values = {name: value for name, value in train.model_dump(mode="json").items() if name not in _NO_BEARING}
    if train.strategy == "synchronous":
        del values["workers"], values["averaging_frequency"]
    else:
        values["workers"] = workers
    return values
