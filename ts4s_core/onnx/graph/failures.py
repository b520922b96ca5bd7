"""The edge at which errors of ONNX, onnx2torch, ONNX Runtime and PyTorch become one error of ts4s."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ts4s_core.errors import Ts4sError, UnsupportedModelError


@contextlib.contextmanager
def graph_failures(what: str) -> Iterator[None]:
    """Map every foreign exception; a graph from outside can break any of the rules that these libraries take for granted.

    Raises:
        UnsupportedModelError: in place of every exception that is not a Ts4sError.
    """
    try:
        yield
    except Ts4sError:
        raise
    except Exception as exc:
        raise UnsupportedModelError(
            f"{what}: expected a graph of operators in the forms that are taken, got {type(exc).__name__}: {exc}. "
            "Export the model again with ts4s export"
        ) from exc
