"""Named weights: their hash, and how they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Hash over names in order, dtype, shape and raw bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write weights as safetensors; views are made tensors of their own first."""
    save_file({name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}, path)
