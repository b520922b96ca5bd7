"""The inputs of a graph of texts: token ids and mask as given, token types and positions derived from them.

Shapes: ``B`` texts, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ts4s_core.onnx.graph.graph import Array

Ids = npt.NDArray[np.int64]
#: The inputs that are taken, and what other exporters call them.
INPUTS = {
    "input_ids": "input_ids",
    "input": "input_ids",
    "attention_mask": "attention_mask",
    "mask": "attention_mask",
    "input_mask": "attention_mask",
    "token_type_ids": "token_type_ids",
    "segment_ids": "token_type_ids",
    "position_ids": "position_ids",
}
_RUNTIME_TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32}


_MADE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "input_ids": lambda _library, ids, _mask: ids,
    "attention_mask": lambda _library, _ids, mask: mask,
    "token_type_ids": lambda library, ids, _mask: library.zeros_like(ids),
    "position_ids": lambda library, ids, _mask: library.broadcast_to(library.arange(ids.shape[1]), ids.shape),
}


def graph_input(name: str, ids: Any, mask: Any, *, library: Any = np) -> Any:
    """An input ``(B, T)`` int64 by its name among the values of :data:`INPUTS`: token types are zeros, positions count from 0.

    Args:
        name: of the input.
        ids: token ids ``(B, T)``.
        mask: 1 at real tokens, ``(B, T)``.
        library: whose arrays they are: NumPy, or PyTorch.
    """
    return _MADE[name](library, ids, mask)


def every_input(ids: Ids, mask: Ids) -> dict[str, Ids]:
    """All inputs that a graph may ask for, by name."""
    return {name: graph_input(name, ids, mask) for name in _MADE}


class RuntimeInputs:
    """Makes the feed of an ONNX Runtime session.

    Args:
        inputs: what ``session.get_inputs()`` gives.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        self._wanted = {entry.name: _RUNTIME_TYPES.get(entry.type, np.int64) for entry in inputs}

    def __call__(self, ids: Ids, mask: Ids) -> dict[str, Array]:
        """The session's feed of ids and mask ``(B, T)``."""
        return {name: np.ascontiguousarray(graph_input(INPUTS[name], ids, mask), dtype) for name, dtype in self._wanted.items()}
