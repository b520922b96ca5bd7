"""Operator converters beyond onnx2torch's own, in its registry.

One module a family: ``newer_opsets`` (operators that onnx2torch knows in an older version), ``shapes``, ``reductions``,
``normalisation``, ``attention`` (operators or versions it does not know), ``native`` (the nodes that ts4s puts in place of
ONNX patterns, in the domain ``ts4s``).
"""

from __future__ import annotations

import importlib

from ts4s_core.onnx.onnx2torch_library import import_library

#: By their whole names, which a step's key follows.
FAMILIES = (
    "ts4s_core.onnx.converters.newer_opsets",
    "ts4s_core.onnx.converters.shapes",
    "ts4s_core.onnx.converters.reductions",
    "ts4s_core.onnx.converters.normalisation",
    "ts4s_core.onnx.converters.attention",
    "ts4s_core.onnx.converters.native",
)

# The modules of this package import onnx2torch by name.
import_library()


def register_all() -> None:
    """Register every converter, once in a process."""
    for family in FAMILIES:
        importlib.import_module(family)
