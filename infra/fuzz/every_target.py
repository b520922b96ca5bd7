"""A target by its name; only its own libraries are imported."""

from __future__ import annotations

import importlib

from homes import HOMES
from target import Target


def target_of(name: str) -> Target:
    """The target of that name."""
    found: Target = importlib.import_module(HOMES[name]).TARGETS[name]
    return found
