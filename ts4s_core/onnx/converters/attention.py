"""Attention and RotaryEmbedding of opset 23.

Shapes: ``B`` texts, ``T`` tokens, ``S`` keys, ``h`` heads, ``d`` size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ts4s_core.onnx.converters.registering import register
from ts4s_core.onnx.rewriting.attention import refuse_attention_extras
from ts4s_core.onnx.seeded_dropout import SeededDropout


class Attention(nn.Module):
    """Scaled dot-product attention; PyTorch's fused kernel as long as no weight is dropped."""

    def __init__(self, *, scale: float | None, is_causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.is_causal = scale, is_causal
        self.dropout = SeededDropout(dropout) if dropout else None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(B, h, T, d)``, twice ``(B, h, S, d)``, mask broadcastable to ``(B, h, T, S)`` (bool: True attends)."""
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        if self.dropout is not None and self.training:
            return self._dropped(query, key, value, mask)
        grouped = key.shape[1] != query.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=self.is_causal, scale=self.scale, enable_gqa=grouped
        )

    def _dropped(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        assert self.dropout is not None
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = (query * scale) @ key.transpose(-1, -2)
        if self.is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        dropped: torch.Tensor = self.dropout(scores.softmax(-1)) @ value
        return dropped


class HeadedAttention(nn.Module):
    """:class:`Attention` on ``(B, T, h * d)`` inputs, as ONNX allows."""

    def __init__(self, attention: Attention, *, query_heads: int, key_heads: int) -> None:
        super().__init__()
        self.attention, self.query_heads, self.key_heads = attention, query_heads, key_heads

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(B, T, h * d)`` like the query."""
        heads = [
            torch.unflatten(data, -1, (count, -1)).transpose(1, 2)
            for data, count in ((query, self.query_heads), (key, self.key_heads), (value, self.key_heads))
        ]
        mixed: torch.Tensor = self.attention(*heads, mask)
        return mixed.transpose(1, 2).flatten(2)


class RotaryEmbedding(nn.Module):
    """Rotation of pairs of coordinates by a token's position."""

    def __init__(self, *, interleaved: bool, rotary_dim: int, heads: int) -> None:
        super().__init__()
        self.interleaved, self.rotary_dim, self.heads = interleaved, rotary_dim, heads

    def forward(
        self, data: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(B, h, T, d)`` or ``(B, T, h * d)``; caches ``(B, T, r / 2)``, or ``(positions, r / 2)`` with ``positions``."""
        flat = data.dim() == 3
        if flat:
            data = torch.unflatten(data, -1, (self.heads, -1)).transpose(1, 2)
        if positions is not None:
            cos, sin = cos[positions], sin[positions]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        size = self.rotary_dim or data.shape[-1]
        turned, rest = data[..., :size], data[..., size:]
        if self.interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
        else:
            first, second = turned.chunk(2, -1)
        real, imaginary = cos * first - sin * second, sin * first + cos * second
        joined = torch.stack((real, imaginary), -1).flatten(-2) if self.interleaved else torch.cat((real, imaginary), -1)
        result = torch.cat((joined, rest), -1) if rest.shape[-1] else joined
        return result.transpose(1, 2).flatten(2) if flat else result


@register("Attention", versions=(23, 24))
def _attention(node: Any) -> nn.Module:
    label = f"node {node.name} (operator Attention)"
    refuse_attention_extras(label, dict(node.attributes), inputs=node.input_values, outputs=node.output_values)
    attributes = node.attributes
    attention = Attention(scale=attributes.get("scale"), is_causal=bool(attributes.get("is_causal", 0)))
    heads = attributes.get("q_num_heads", 0)
    if not heads:
        return attention
    return HeadedAttention(attention, query_heads=int(heads), key_heads=int(attributes.get("kv_num_heads", heads)))


@register("RotaryEmbedding", versions=(23, 24))
def _rotary(node: Any) -> nn.Module:
    attributes = node.attributes
    return RotaryEmbedding(
        interleaved=bool(attributes.get("interleaved", 0)),
        rotary_dim=int(attributes.get("rotary_embedding_dim", 0)),
        heads=int(attributes.get("num_heads", 0)),
    )
