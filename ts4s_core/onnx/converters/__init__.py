"""Operator converters beyond onnx2torch's own, in its registry.

One module a family: ``newer_opsets`` (operators that onnx2torch knows in an older version), ``shapes``, ``reductions``,
``normalisation``, ``attention`` (operators or versions it does not know), ``native`` (the nodes that ts4s puts in place of
ONNX patterns, in the domain ``ts4s``).
"""

from __future__ import annotations

import importlib

FAMILIES = ("newer_opsets", "shapes", "reductions", "normalisation", "attention", "native")


def register_all() -> None:
    """Register every converter, once in a process. onnx2torch must be imported already."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
