"""The modules that stand in place of ONNX patterns (domain ``ts4s``), and their converters.

Each holds its weights as parameters ``weight`` and ``bias`` in the state dict's own orientation; ``parameter_names`` says
which state-dict tensor each is. They are made empty: the importer puts the tensors in.

Shapes: ``B`` texts, ``T`` tokens, ``H`` hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ts4s_core.onnx.converters.attention import Attention
from ts4s_core.onnx.converters.normalisation import Gelu
from ts4s_core.onnx.converters.registering import register
from ts4s_core.onnx.graph.graph import DOMAIN
from ts4s_core.onnx.seeded_dropout import SeededDropout


class WeightedModule(nn.Module):
    """A module with named weights; ``parameter_names`` maps ``weight`` / ``bias`` to state-dict names."""

    def __init__(self, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.parameter_names = names
        for local, shape in shapes.items():
            self.register_parameter(local, nn.Parameter(torch.empty(shape, device="meta")))

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two nodes that are calls of one module."""
        return (type(self).__name__, self.extra_repr(), tuple(sorted(self.parameter_names.items())))


class LoraAdapter(nn.Module):
    """What LoRA adds to a Linear: ``x A^T B^T * scale``, with ``A`` ``(rank, in)`` and ``B`` ``(out, rank)``."""

    def __init__(self, in_features: int, out_features: int, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, in_features, device="meta"))
        self.B = nn.Parameter(torch.empty(out_features, rank, device="meta"))
        self.scale = alpha / rank

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``(..., in)`` to ``(..., out)``."""
        return F.linear(F.linear(data, self.A), self.B) * self.scale

    def delta(self) -> torch.Tensor:
        """The matrix ``(out, in)`` that it stands for."""
        return (self.B @ self.A) * self.scale


class Linear(WeightedModule):
    """``x W^T + b``; with ``in_out`` (GPT-2's Conv1D) ``W`` is stored ``(in, out)`` and not transposed."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, names: dict[str, str], shape: tuple[int, int], *, in_out: bool, role: str = "") -> None:
        self.in_features, self.out_features = shape if in_out else shape[::-1]
        shapes: dict[str, tuple[int, ...]] = {"weight": shape}
        if "bias" in names:
            shapes["bias"] = (self.out_features,)
        super().__init__(names, shapes)
        if "bias" not in names:
            self.register_parameter("bias", None)
        self.in_out, self.role = in_out, role
        self.lora: LoraAdapter | None = None

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``(..., in)`` to ``(..., out)``."""
        result = F.linear(data, self.weight.t() if self.in_out else self.weight, self.bias)
        return result if self.lora is None else result + self.lora(data)


class TokenEmbedding(WeightedModule):
    """Rows of a table by number."""

    weight: nn.Parameter

    def __init__(self, names: dict[str, str], shape: tuple[int, int]) -> None:
        super().__init__(names, {"weight": shape})
        self.num_embeddings, self.embedding_dim = shape

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}"

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """Indices of any shape to the same shape with ``H`` behind."""
        return F.embedding(indices, self.weight)


class LayerNorm(WeightedModule):
    """Layer normalisation over the last axis."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, names: dict[str, str], size: int, *, epsilon: float) -> None:
        super().__init__(names, dict.fromkeys(names, (size,)))
        if "bias" not in names:
            self.register_parameter("bias", None)
        self.size, self.epsilon = size, epsilon

    def extra_repr(self) -> str:
        """Size and epsilon."""
        return f"{self.size}, epsilon={self.epsilon}"

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``(..., H)``."""
        return F.layer_norm(data, (self.size,), self.weight, self.bias, self.epsilon)


class Weight(WeightedModule):
    """A weight as it is, for the operators that take it as an input."""

    weight: nn.Parameter

    def __init__(self, names: dict[str, str], shape: tuple[int, ...], *, transposed: bool) -> None:
        super().__init__(names, {"weight": shape})
        self.transposed = transposed

    def extra_repr(self) -> str:
        """Orientation."""
        return f"transposed={self.transposed}"

    def forward(self) -> torch.Tensor:
        """The tensor."""
        return self.weight.t() if self.transposed else self.weight


class Reshape(nn.Module):
    """Reshape to a shape known but for its dynamic dimensions: ``-1`` is inferred, ``-2 - i`` copies the input's axis ``i``."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def extra_repr(self) -> str:
        """The shape."""
        return str(self.shape)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """The same elements."""
        return data.reshape([size if size >= -1 else data.shape[-2 - size] for size in self.shape])


class KeyMask(nn.Module):
    """Which keys may be attended: ``(B, T)`` to ``(B, 1, 1, T)``, or ``(B, 1, T, T)`` where no token sees the future."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """A bool mask, True where attention is allowed."""
        allowed = attention_mask.to(torch.bool)[:, None, None, :]
        if not self.causal:
            return allowed
        length = attention_mask.shape[1]
        return allowed & torch.ones(length, length, dtype=torch.bool).tril()


class FloatCast(nn.Module):
    """A cast to the floating type that the model is in: float32, but float64 after ``model.double()``."""

    like: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """The same values."""
        return data.to(self.like.dtype)


class SliceTo(nn.Module):
    """The first rows of a table as long as the tokens are: tables of a graph that was exported for one length."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, table: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """``(..., T_max, ...)`` to ``(..., T, ...)``."""
        return table.narrow(self.axis, 0, input_ids.shape[1])


def _short(number: float) -> float:
    """ONNX keeps numbers in float32: 1e-12 comes back as 9.99999996e-13."""
    return float(f"{number:.6g}")


class TokenIndices(nn.Module):
    """Indices that depend on the number of tokens alone: zeros, or ``offset``, ``offset + 1``, ..."""

    def __init__(self, *, counting: bool, offset: int) -> None:
        super().__init__()
        self.counting, self.offset = counting, offset

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` to ``(1, T)``, of type int64."""
        length = input_ids.shape[1]
        if not self.counting:
            return torch.full((1, length), self.offset)
        return torch.arange(self.offset, self.offset + length).unsqueeze(0)


def _names(attributes: dict[str, Any]) -> dict[str, str]:
    return {local: attributes[local] for local in ("weight", "bias") if local in attributes}


@register("Linear", versions=(1,), domain=DOMAIN)
def _linear(node: Any) -> nn.Module:
    rows, columns = node.attributes["shape"]
    return Linear(
        _names(node.attributes), (rows, columns), in_out=bool(node.attributes["in_out"]), role=node.attributes.get("role", "")
    )


@register("Embedding", versions=(1,), domain=DOMAIN)
def _embedding(node: Any) -> nn.Module:
    rows, columns = node.attributes["shape"]
    return TokenEmbedding(_names(node.attributes), (rows, columns))


@register("LayerNorm", versions=(1,), domain=DOMAIN)
def _layer_norm(node: Any) -> nn.Module:
    return LayerNorm(_names(node.attributes), int(node.attributes["size"]), epsilon=_short(node.attributes["epsilon"]))


@register("Weight", versions=(1,), domain=DOMAIN)
def _weight(node: Any) -> nn.Module:
    shape = tuple(node.attributes.get("shape", ()))
    return Weight(_names(node.attributes), shape, transposed=bool(node.attributes.get("transposed", 0)))


@register("Reshape", versions=(1,), domain=DOMAIN)
def _reshape(node: Any) -> nn.Module:
    return Reshape(list(node.attributes["shape"]))


@register("Attention", versions=(1,), domain=DOMAIN)
def _attention(node: Any) -> nn.Module:
    attributes = node.attributes
    return Attention(
        scale=attributes.get("scale"),
        is_causal=bool(attributes.get("is_causal", 0)),
        dropout=_short(attributes.get("dropout", 0.0)),
    )


@register("Gelu", versions=(1,), domain=DOMAIN)
def _gelu(node: Any) -> nn.Module:
    return Gelu(str(node.attributes["approximate"]))


@register("KeyMask", versions=(1,), domain=DOMAIN)
def _key_mask(node: Any) -> nn.Module:
    return KeyMask(bool(node.attributes["causal"]))


@register("Dropout", versions=(1,), domain=DOMAIN)
def _dropout(node: Any) -> nn.Module:
    return SeededDropout(_short(node.attributes["p"]))


@register("FloatCast", versions=(1,), domain=DOMAIN)
def _float_cast(node: Any) -> nn.Module:
    return FloatCast()


@register("SliceTo", versions=(1,), domain=DOMAIN)
def _slice_to(node: Any) -> nn.Module:
    return SliceTo(int(node.attributes["axis"]))


@register("TokenIndices", versions=(1,), domain=DOMAIN)
def _token_indices(node: Any) -> nn.Module:
    return TokenIndices(counting=bool(node.attributes["counting"]), offset=int(node.attributes["offset"]))
