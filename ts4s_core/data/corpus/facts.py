"""Facts of a language model's dataset version."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.data.facts import DatasetFacts


class CorpusFacts(DatasetFacts):
    """Further facts of a dataset of plain text.

    Attributes:
        begin_id: token that every block begins with; None: there is none.
        vocabulary: tokens of the tokenizer.
        window: tokens that are predicted from each window start.
        stride: tokens between window starts.
        tokens: by side.
        bytes: of text by side.
        tokenizer_trained: whether the tokenizer was trained on the text.
    """

    NOUN: ClassVar[str] = "text dataset"

    begin_id: int | None = None
    vocabulary: int
    window: int
    stride: int
    tokens: dict[str, int] = {}
    bytes: dict[str, int]
    tokenizer_trained: bool | None = None
