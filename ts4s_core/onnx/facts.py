"""Facts of an exported base model."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts, Record


class ParameterCounts(Record):
    """Numbers of parameters; of a file that was made elsewhere only the total is known."""

    total: int
    embedding: int | None = None
    per_block: list[int] | None = None
    other: int | None = None


class TokenFlops(Record):
    """Floating-point operations of one token, by sequence length."""

    forward: dict[str, int]
    forward_backward: dict[str, int]


class Summary(Record):
    """Sizes, parameters and operations of a base model.

    Attributes:
        family: its architecture; ``onnx`` for a file that was made elsewhere, of which little else is known.
    """

    family: str
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    vocabulary: int | None = None
    parameters: ParameterCounts
    flops_per_token: TokenFlops | None = None


class OnnxFacts(Facts):
    """Facts of an exported base model.

    Attributes:
        task: ``encoder`` or ``causal-lm``.
        opset: of the graph.
        summary: sizes, parameters and operations of the model.
        onnxruntime_difference: largest difference between the graph in ONNX Runtime and the module.
    """

    NOUN: ClassVar[str] = "exported model"
    REMEDY: ClassVar[str] = "Export it again"

    task: str
    opset: int
    summary: Summary
    onnxruntime_difference: float | None = None
