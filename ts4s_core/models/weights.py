"""Weights at rest and their hash. NumPy and safetensors alone: no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ts4s_core.errors import IntegrityError, listed

Array = NDArray[Any]


def weights_sha256(named_tensors: Mapping[str, Array]) -> str:
    """Hash of some tensors: for each name, in sorted order, its name, dtype, shape and raw little-endian bytes.

    Two sets of tensors have one hash exactly if they have the same names and the same bits.
    """
    digest = hashlib.sha256()
    for name in sorted(named_tensors):
        array = np.ascontiguousarray(named_tensors[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        shape = "x".join(str(size) for size in np.shape(named_tensors[name]))
        digest.update(f"{name}\0{array.dtype.name}\0{shape}\0{array.nbytes}\0".encode())
        digest.update(little.reshape(-1).view(np.uint8).data)  # as bytes: Python's buffers know no bfloat16
    return digest.hexdigest()


def save_weights(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write tensors as safetensors, in sorted order (equal tensors give equal bytes)."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, path)


def read_weights(path: Path, *, expected: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Array]:
    """Read tensors.

    Args:
        path: a safetensors file.
        expected: shape by name of what must be in it, no more and no less.

    Raises:
        IntegrityError: the file is damaged, its header lies, or it holds other tensors than expected.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_tensors(path, shapes, expected)
            return {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as exc:
        raise IntegrityError(
            f"Reading of weights {path.name}: expected a whole safetensors file, got {exc}. Restore it or make it again"
        ) from exc


def _check_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]] | None) -> None:
    if expected is None:
        return
    problems = [f"no {name}" for name in sorted(expected.keys() - shapes.keys())]
    problems += [f"unknown {name}" for name in sorted(shapes.keys() - expected.keys())]
    problems += [
        f"{name} of shape {shapes[name]} instead of {tuple(expected[name])}"
        for name in sorted(expected.keys() & shapes.keys())
        if shapes[name] != tuple(expected[name])
    ]
    if problems:
        raise IntegrityError(
            f"Weights {path.name} do not fit their graph: got {listed(problems)}. Restore the file or make it again"
        )
