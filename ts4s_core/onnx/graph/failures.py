"""The edge at which what ONNX, onnx2torch, ONNX Runtime and PyTorch raise at somebody's graph becomes one error of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ts4s_core.errors import Ts4sError, UnsupportedModelError


@contextlib.contextmanager
def graph_failures(what: str) -> Iterator[None]:
    """Map everything foreign; a graph from outside can break any of the rules that these libraries take for granted.

    Raises:
        UnsupportedModelError: in place of whatever is no error of ours.
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
