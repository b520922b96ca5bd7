from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ts4s_core.errors import IntegrityError
from ts4s_core.models.weights import read_weights, save_weights, weights_sha256

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1.5], dtype=np.float64)}


def test_hash_is_over_name_dtype_shape_and_bytes_in_sorted_order() -> None:
    digest = hashlib.sha256()
    digest.update(b"a\0float64\x001\x008\0" + np.float64(1.5).tobytes())
    digest.update(b"b\0float32\x002x3\x0024\0" + TENSORS["b"].tobytes())
    assert weights_sha256(TENSORS) == digest.hexdigest()
    assert weights_sha256(dict(reversed(TENSORS.items()))) == digest.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"b": TENSORS["b"]},
        {**TENSORS, "b": TENSORS["b"].reshape(3, 2)},
        {**TENSORS, "b": TENSORS["b"].view(np.int32)},
        {"c": TENSORS["b"], "a": TENSORS["a"]},
        {**TENSORS, "b": np.nextafter(TENSORS["b"], 9, dtype=np.float32)},
    ],
)
def test_hash_sees_every_difference(other: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    assert weights_sha256(other) != weights_sha256(TENSORS)


def test_hash_of_a_transposed_view_is_that_of_its_values() -> None:
    assert weights_sha256({"w": TENSORS["b"].T}) == weights_sha256({"w": TENSORS["b"].T.copy()})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS)
    found = read_weights(tmp_path / "w.safetensors", expected={"a": (1,), "b": (2, 3)})
    assert weights_sha256(found) == weights_sha256(TENSORS)
    save_weights(tmp_path / "again.safetensors", dict(reversed(TENSORS.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("expected", "said"),
    [({"a": (1,)}, "unknown b"), ({"a": (1,), "b": (2, 3), "c": (1,)}, "no c"), ({"a": (1,), "b": (6,)}, r"b of shape \(2, 3\)")],
)
def test_other_tensors_than_expected(expected: dict[str, tuple[int, ...]], said: str, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS)
    with pytest.raises(IntegrityError, match=said):
        read_weights(tmp_path / "w.safetensors", expected=expected)


def lying(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        struct.pack("<Q", 2**60) + b"{}",
        lying({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}, b"1234"),
        lying({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, b"1234"),
        lying({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        lying({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
        lying({"a": {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    ],
)
def test_lying_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"Reading of weights w\.safetensors: expected a whole safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="whole safetensors file"):
        read_weights(tmp_path / "w.safetensors")
