"""Files on their way to the store that leave nothing behind, even if the process is killed while it writes."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.weights import Array

_DESCRIPTORS = Path("/proc/self/fd")
_SAFETENSORS_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@contextlib.contextmanager
def scratch_file() -> Iterator[Path]:
    """A temporary file without a name: the kernel frees it with the process (elsewhere than on Linux it has a name)."""
    descriptor, name = tempfile.mkstemp(prefix="ts4s-")
    nameless = _DESCRIPTORS.exists()
    if nameless:
        os.unlink(name)
    try:
        yield _DESCRIPTORS / str(descriptor) if nameless else Path(name)
    finally:
        os.close(descriptor)
        if not nameless:
            os.unlink(name)


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file in place, in sorted order, without a copy in memory.

    The library's own writer makes a named file beside the path and renames it, which a file without a name does not allow.

    Raises:
        UnsupportedModelError: on a dtype that is not written.
    """
    header: dict[str, object] = {}
    offset = 0
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype.name not in _SAFETENSORS_TYPES:
            raise UnsupportedModelError(f"Weight {name} cannot be stored: expected {list(_SAFETENSORS_TYPES)}, got {array.dtype}")
        header[name] = {
            "dtype": _SAFETENSORS_TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            array = np.ascontiguousarray(tensors[name])
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(little.reshape(-1).view(np.uint8).data)
