"""What a small network is: the part of ``model.json`` that stands for the graph an imported model has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ts4s_core.errors import IntegrityError
from ts4s_core.settings.groups import MAX_LAYERS


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The sizes of a window or recurrent network.

    Attributes:
        architecture: ``window`` or ``recurrent``.
        vocab_size: tokens.
        embedding_size: of a token's vector.
        hidden_size: of the dense layer, or of the recurrent state.
        positions: rows of the learned table of positions: the window's tokens, or those of the longest text.
        attention_heads: of the window's self-attention; 0: none.
        layers: recurrent layers.
        cell: ``gru`` or ``lstm``.
        frozen_embedding: whether the token vectors stay as they are.
        tied: whether they are the output's weights too, in a recurrent network; the last layer is as wide as they are then.
    """

    architecture: Literal["window", "recurrent"]
    vocab_size: int
    embedding_size: int
    hidden_size: int
    positions: int
    attention_heads: int = 0
    layers: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    frozen_embedding: bool = False
    tied: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> NetworkSpec:
        """What :meth:`to_json` gave.

        Raises:
            IntegrityError: the record is not one that :meth:`to_json` gave.
        """
        try:
            spec = cls(**record)
            if not 1 <= spec.layers <= MAX_LAYERS:  # each is made of Python objects, before the weights are looked at
                raise ValueError(f"{spec.layers} layers")
            return spec
        except (TypeError, ValueError) as exc:
            raise IntegrityError(
                f"Reading of model.json: expected the sizes of a small network, got {exc}. Make the model again"
            ) from exc
