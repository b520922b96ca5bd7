"""Sizes of the networks that are built in, where the settings say 0."""

from __future__ import annotations

TRANSFORMER_SIZES = {"hidden_size": 192, "layers": 4, "attention_heads": 4}
NETWORK_SIZES = {"hidden_size": 256, "layers": 1, "embedding_size": 128}
