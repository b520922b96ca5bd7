"""Typed settings: groups, the root, and how they are read."""

from ts4s_core.settings.groups import (
    NAMED_FORMATS,
    SPARK_FORMATS,
    DataSettings,
    EvaluateSettings,
    GenerateSettings,
    ModelSettings,
    SparkSettings,
    StorageAddress,
    StorageSettings,
    TrainSettings,
)
from ts4s_core.settings.load import load_settings
from ts4s_core.settings.root import Settings, local_slots

__all__ = [
    "NAMED_FORMATS",
    "SPARK_FORMATS",
    "DataSettings",
    "EvaluateSettings",
    "GenerateSettings",
    "ModelSettings",
    "Settings",
    "SparkSettings",
    "StorageAddress",
    "StorageSettings",
    "TrainSettings",
    "load_settings",
    "local_slots",
]
