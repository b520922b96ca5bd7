"""Facts of generated texts."""

from __future__ import annotations

from typing import ClassVar

from ts4s_core.artifacts.facts import Facts


class TextFacts(Facts):
    """Facts of the texts that a trained language model generated.

    Attributes:
        sample: the texts, one after the other.
        texts: their number.
        tokens: of all of them.
    """

    NOUN: ClassVar[str] = "generated text"
    REMEDY: ClassVar[str] = "Generate it again"

    sample: str
    texts: int
    tokens: int
