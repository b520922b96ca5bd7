"""onnx2torch with this project's converters."""

from __future__ import annotations

import threading
from typing import Any

from ts4s_core.onnx.onnx2torch_library import import_library

_LOCK = threading.Lock()


def onnx2torch() -> Any:
    """The module ``onnx2torch`` with the converters of ts4s registered.

    Raises:
        Ts4sError: it is not installed; the message says how to install it.
    """
    with _LOCK:
        module = import_library()
        # Not at import time: weights and descriptions can be read where onnx2torch is not installed.
        from ts4s_core.onnx.converters import register_all

        register_all()
    return module
