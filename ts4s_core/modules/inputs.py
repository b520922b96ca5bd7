"""How a row becomes a module's inputs: numbers, cut and shaped as it expects them, tokens, or the tokens of a text.

Legend: B rows, D numbers of a row, T tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ts4s_core.errors import DataError, SettingsError, listed
from ts4s_core.models.length_batches import padded_flat

if TYPE_CHECKING:  # tasks that only write rows do without them
    import torch

    from ts4s_core.data.tokenizers import StoredTokenizer


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
        names: forward's argument names, in the order of the columns; empty: arguments by place.
        tokens: number of columns that are arrays of token ids, of any length, as many in each column of a row; 0: they are not.
            Each is an argument, (B, T) int64, padded to the longest row of the batch.
        mask: whether the last of ``names`` is one more, the mask of the tokens' lengths.
    """

    text: bool = False
    widths: tuple[int, ...] = ()
    separate: bool = False
    shape: tuple[int, ...] = ()
    whole: bool = False
    max_length: int = 128
    pad_id: int = 0
    names: tuple[str, ...] = ()
    tokens: int = 0
    mask: bool = False

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
        if self.separate or self.names:
            return tuple(piece.contiguous() for piece in torch.split(tensor, list(self.widths), dim=1))
        return (tensor.view(len(rows), *self.shape) if self.shape else tensor,)

    def token_arguments(self, flat: NDArray[Any], lengths: NDArray[np.integer]) -> tuple[torch.Tensor, ...]:
        """Forward's arguments of rows of tokens.

        Args:
            flat: all rows, one after the other; of each the tokens of its first column, then of its second, ...
            lengths: tokens of each row in one column, (B,).
        """
        import torch

        column = np.tile(np.arange(self.tokens), len(lengths)).repeat(lengths.repeat(self.tokens))
        found = []
        for number in range(self.tokens):
            ids, mask = padded_flat(flat[column == number], lengths, pad_id=self._padding(number))
            found.append(ids)
        return tuple(torch.from_numpy(array) for array in [*found, *([mask] if self.mask else [])])

    def _padding(self, number: int) -> int:
        """What fills a column: token ids have an id for it, masks, types and places have 0."""
        name = self.names[number] if self.names else ""
        return self.pad_id if name == IDS or (not number and name not in (MASK, "token_type_ids", "position_ids")) else 0


IDS, MASK = "input_ids", "attention_mask"


def named_arguments(forward: Callable[..., Any], columns: Sequence[str], *, given: Sequence[str]) -> tuple[str, ...]:
    """The names of the arguments of forward that columns are; empty: by place.

    Args:
        forward: the module's.
        columns: names of the columns.
        given: names that were asked for; none: the columns' own, where there are several, all of which forward has.

    Raises:
        SettingsError: if forward has no argument of a name, or other columns come than it has names.
    """
    parameters = inspect.signature(forward).parameters
    known = [name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if not given:
        return tuple(columns) if len(columns) > 1 and set(columns) <= set(known) else ()
    rest = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    missing = [] if rest else [name for name in given if name not in known]
    if missing or len(given) != len(columns) or len(set(given)) != len(given):
        raise SettingsError(
            f"inputNames {listed(given)} do not fit: expected one of forward's arguments ({listed(known)}) for each of "
            f"{listed(columns)}. Change inputNames"
        )
    return tuple(given)


def token_form(form: InputForm, forward: Callable[..., Any], *, columns: int) -> InputForm:
    """The form of columns that are arrays of token ids; forward gets a mask of their lengths if it has an argument for it."""
    names = form.names
    known = list(inspect.signature(forward).parameters)
    mask = MASK in known[1:] and MASK not in names and not form.separate and (bool(names) or columns == 1)
    if mask:
        names = (*(names or known[:1]), MASK)
    return replace(form, whole=True, tokens=columns, names=names, mask=mask)


def outputs_in(found: Any) -> tuple[Any, ...]:
    """The outputs that a module gave: of a map (a Transformers output is one) its ``logits``, or else its first value."""
    if isinstance(found, Mapping):
        return (found["logits"] if "logits" in found else next(iter(found.values())),)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def encoder(tokenizer: StoredTokenizer, form: InputForm) -> Any:
    """Texts to token numbers, cut to the form's length, or the tokenizer's own.

    Raises:
        SourceError: if it is damaged.
        SettingsError: if its special tokens leave no room.
    """
    from ts4s_core.data.tokenizers import tokenizer_failures

    made = tokenizer.load(max_length=form.max_length)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        with tokenizer_failures("The tokenizer cannot encode a text"):
            return [encoding.ids for encoding in made.encode_batch_fast(list(texts))]

    return encode
