"""RMSNormalization, Gelu and Mish, which onnx2torch does not know."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ts4s_core.onnx.converters.registering import register


class RMSNormalization(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon) * scale`` over the axes from ``axis`` on."""

    def __init__(self, axis: int, epsilon: float) -> None:
        super().__init__()
        self.axis, self.epsilon = axis, epsilon

    def forward(self, data: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Of the shape of ``data``."""
        return F.rms_norm(data, data.shape[self.axis :], scale, self.epsilon)


class Gelu(nn.Module):
    """Exact or tanh-approximated GELU."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Of the shape of ``data``."""
        return F.gelu(data, approximate=self.approximate)


@register("RMSNormalization", versions=(23,))
def _rms(node: Any) -> nn.Module:
    return RMSNormalization(int(node.attributes.get("axis", -1)), float(node.attributes.get("epsilon", 1e-5)))


@register("Gelu", versions=(20,))
def _gelu(node: Any) -> nn.Module:
    return Gelu(str(node.attributes.get("approximate", "none")))


@register("Mish", versions=(18, 22))
def _mish(_node: Any) -> nn.Module:
    return nn.Mish()
