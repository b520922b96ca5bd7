"""Initial values of new tensors: they depend on (seed, name of the tensor) alone, not on the order of their making."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ts4s_core.onnx.graph.graph import Array

INITIAL_STD = 0.02


def normal(name: str, shape: tuple[int, ...], *, seed: int) -> Array:
    """float32 values of normal(0, 0.02), seeded by the seed and the name."""
    return generator(name, seed=seed).standard_normal(shape, dtype=np.float32) * np.float32(INITIAL_STD)


def kaiming_uniform(name: str, shape: tuple[int, int], *, seed: int) -> Array:
    """float32 values of a uniform distribution within ``1 / sqrt(columns)``, as ``nn.Linear`` draws them."""
    bound = np.float32(1 / math.sqrt(shape[1]))
    return (generator(name, seed=seed).random(shape, dtype=np.float32) * 2 - 1) * bound


def generator(name: str, *, seed: int) -> np.random.Generator:
    """A generator of its own for each (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
