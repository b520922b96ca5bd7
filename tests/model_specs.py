"""The description of a small model, with what a test wants otherwise."""

from __future__ import annotations

from typing import Any

from ts4s_core.models.spec import ModelSpec


def small_spec(**changes: Any) -> ModelSpec:
    """Two classes over vectors of four numbers, nothing frozen, no adapters, no dropout."""
    values: dict[str, Any] = {
        "task": "classification",
        "labels": ("a", "b"),
        "hidden_size": 4,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "freeze_encoder": False,
        "lora_rank": 0,
        "lora_alpha": 1.0,
        "max_length": 8,
        "pad_id": 0,
        "vocab_size": 9,
        "fixed_shape": None,
    }
    return ModelSpec(**{**values, **changes})
