"""How a row becomes a module's inputs: numbers, cut and shaped as it expects them, or the tokens of a text.

Legend: B rows, D numbers of a row, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ts4s_core.errors import DataError

if TYPE_CHECKING:  # tasks that only write rows do without it
    import torch


@dataclass(frozen=True)
class InputForm:
    """How rows become the arguments of forward.

    Attributes:
        text: whether rows are texts: forward gets ``input_ids, attention_mask``, (B, T) int64 each.
        widths: numbers of each input column, in order; all of them are one row of D.
        separate: whether each column is an argument of its own; else there is one argument, (B, D).
        shape: shape of the one argument without B, e.g. (1, 28, 28); empty: as it is.
        whole: whether the numbers are int64 (for embeddings), not float32.
        max_length: tokens that a text is cut to.
        pad_id: token id that texts are filled up with.
    """

    text: bool = False
    widths: tuple[int, ...] = ()
    separate: bool = False
    shape: tuple[int, ...] = ()
    whole: bool = False
    max_length: int = 128
    pad_id: int = 0

    def to_json(self) -> dict[str, Any]:
        """The form as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InputForm:
        """The form that :meth:`to_json` wrote."""
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**plain)

    def check(self) -> None:
        """Refuse a shape that the numbers of a row do not fill.

        Raises:
            DataError: if they do not.
        """
        if self.shape and math.prod(self.shape) != sum(self.widths):
            raise DataError(
                f"inputShape {list(self.shape)} holds {math.prod(self.shape)} numbers: expected as many as a row has, "
                f"got {sum(self.widths)}. Change inputShape"
            )

    def arguments(self, rows: NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Forward's arguments of (B, D) numbers."""
        import torch

        tensor = torch.from_numpy(np.require(rows, np.int64 if self.whole else np.float32, ["C", "W"]))
        if self.separate:
            return tuple(piece.contiguous() for piece in torch.split(tensor, list(self.widths), dim=1))
        return (tensor.view(len(rows), *self.shape) if self.shape else tensor,)


def encoder(tokenizer: str, form: InputForm) -> Any:
    """Texts to token numbers, cut to the form's length."""
    from ts4s_core.data.tokenizers import tokenizer_failures, tokenizer_from

    made = tokenizer_from(tokenizer)
    made.enable_truncation(form.max_length)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        with tokenizer_failures("The tokenizer cannot encode a text"):
            return [encoding.ids for encoding in made.encode_batch_fast(list(texts))]

    return encode
