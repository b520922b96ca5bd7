"""Spark: the only home of pyspark. Sessions, the driver program, the barrier stage that training runs in, and Spark ML.

For Spark's own programs: ``from ts4s_core.spark import TorchEstimator, TorchModel, trust``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts4s_core.modules.trust import trust
    from ts4s_core.spark.ml_estimator import TorchEstimator
    from ts4s_core.spark.ml_model import TorchModel

__all__ = ["TorchEstimator", "TorchModel", "trust"]

_HOMES = {
    "TorchEstimator": "ts4s_core.spark.ml_estimator",
    "TorchModel": "ts4s_core.spark.ml_model",
    "trust": "ts4s_core.modules.trust",
}


def __getattr__(name: str) -> Any:
    """The public names, each loaded when it is asked for: a session starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
