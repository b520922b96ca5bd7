"""Outputs of a saved module for rows, on whichever process has them.

Legend: B rows, C numbers of an output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from ts4s_core.data.tokenizers import StoredTokenizer
from ts4s_core.errors import DataError, InputError
from ts4s_core.models.length_batches import padded
from ts4s_core.modules.inputs import MASK, InputForm, encoder, outputs_in
from ts4s_core.modules.job_module import check_device, dtype_of, forward_of, make_module
from ts4s_core.modules.programs.found import Example, program_of
from ts4s_core.modules.saved import SavedModule, weights_of
from ts4s_core.process_state import PROCESS

#: What :meth:`Predictor.predict` gives.
STRUCT = pa.struct([("prediction", pa.float64()), ("raw", pa.list_(pa.float64())), ("probability", pa.list_(pa.float64()))])
#: Predictors that a process keeps.
_MOST_KEPT = 4


@dataclass(frozen=True)
class Scores:
    """Predictions of some rows: ``prediction`` (B,), ``raw`` (B, C), ``probability`` (B, C) or None; float64."""

    prediction: NDArray[np.float64]
    raw: NDArray[np.float64]
    probability: NDArray[np.float64] | None


class Predictor:
    """A module ready to predict."""

    def __init__(self, saved: SavedModule, form: InputForm, *, batch_size: int, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._saved = saved
        self._form = form
        self._batch_size = batch_size
        check_device(device, here=True)
        self._device = device
        self._module = make_module(saved).eval().to(device)
        self._forward = forward_of(self._module, "cpu", names=form.names) or self._module
        self._dtype = dtype_of(self._module)
        self._encode = encoder(saved.tokenizer, form) if saved.tokenizer is not None else None

    @classmethod
    def cached(cls, key: str, files: Mapping[str, bytes], **options: Any) -> Predictor:
        """The predictor of a module's files: built once in a process for each key, the last few are kept."""

        def make() -> Predictor:
            return cls(SavedModule.from_files(files, where="of the model"), **options)

        return PROCESS.get_or_make("predictor", key, make, most=_MOST_KEPT)

    def predict(self, column: pa.Array) -> pa.Array:
        """Predictions of a column, of texts or lists of numbers; a null is one for a null."""
        kept = column.drop_null()
        batches = self._batches(kept)
        if not batches:
            return pa.nulls(len(column), STRUCT)
        found = pa.concat_arrays([_structs(self.scores(kept.take(pa.array(batch)))) for batch in batches])
        places = np.full(len(column), -1)
        places[np.flatnonzero(np.asarray(column.is_valid()))[np.concatenate(batches)]] = np.arange(len(kept))
        return found.take(pa.array(places, pa.int64(), mask=places < 0))

    def _batches(self, rows: pa.Array) -> list[NDArray[np.intp]]:
        """Numbers of the rows of each batch. Without a mask a module sees padding, which is not a row's own: there rows of one
        length go together."""
        apart = self._form.tokens and not self._form.mask and MASK not in self._form.names
        lengths = np.asarray(rows.value_lengths()) if apart else np.zeros(len(rows), np.int32)
        order = np.argsort(lengths, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        return [group[start : start + self._batch_size] for group in groups for start in range(0, len(group), self._batch_size)]

    def scores(self, rows: pa.Array) -> Scores:
        """Predictions of at most a batch of rows without nulls."""
        inputs = _arguments(rows, self._form, self._encode, dtype=self._dtype)
        with torch.inference_mode():
            first = outputs_in(self._forward(*(value.to(self._device) for value in inputs)))[0].cpu().double()
        return self._interpreted(first.reshape(len(rows), -1))

    def _interpreted(self, raw: torch.Tensor) -> Scores:
        saved = self._saved
        if saved.output == "value":
            if raw.shape[1] != 1:
                raise DataError(
                    f"output value wants one number a row, the module gave {raw.shape[1]}: set output to class or vector"
                )
            return Scores(raw[:, 0].numpy(), raw.numpy(), None)
        probability = _probabilities(raw, saved.activation)
        if saved.output == "vector":
            return Scores(np.full(len(raw), np.nan), raw.numpy(), None if probability is None else probability.numpy())
        if raw.shape[1] == 1:  # one logit for the second of two classes
            raw = torch.cat([-raw, raw], dim=1)
            probability = None if probability is None else torch.cat([1 - probability, probability], dim=1)
        best = (raw if probability is None else probability).argmax(dim=1).double()
        return Scores(best.numpy(), raw.numpy(), None if probability is None else probability.numpy())


def try_rows(
    module: nn.Module,
    form: InputForm,
    rows: list[Any],
    *,
    tokenizer: StoredTokenizer | None = None,
    objective: Callable[..., Any] | None = None,
    labels: torch.Tensor | None = None,
) -> int | None:
    """How many numbers a module gives for each of a few rows, by one forward, and whether its loss takes them.

    Args:
        module: in eval mode.
        form: what forward gets of a row.
        rows: texts, or lists of numbers.
        tokenizer: of texts.
        objective: takes the outputs and a batch; None: none is tried.
        labels: the rows', as workers give them to the objective.

    Returns:
        None if the first output is no tensor, or has one number a row without an axis for it.

    Raises:
        InputError: if forward or the loss fails on them.
    """
    inputs = _inputs_of(rows, form, tokenizer, dtype=dtype_of(module))
    forward = forward_of(module, "cpu", names=form.names) or module
    found: tuple[Any, ...] = ()  # none: it is forward that failed
    with torch.random.fork_rng(devices=[]):
        try:
            found = outputs_in(forward(*inputs))
            if objective is not None:
                batch = SimpleNamespace(labels=labels, weights=torch.ones(len(rows)))
                objective(found if len(found) > 1 else found[0], batch)
        except InputError:
            raise
        except Exception as exc:  # whatever a module or a loss of the user's raises
            reason = f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"
            if found and objective is not None:
                raise InputError(
                    f"The loss fails on the first rows: {reason} (outputs {_shown(found)}, labels {_shown([labels])}). "
                    "Check loss and labelCol, and labelKind: with class a loss gets whole numbers, one a row"
                ) from exc
            largest = f", the largest number {int(inputs[0].max())}" if form.whole and inputs[0].numel() else ""
            raise InputError(
                f"The module's forward fails on the first rows: {reason} (inputs {_shown(inputs)}{largest}). "
                "Check inputCol, inputShape, inputNames and the module"
            ) from exc
    first = found[0]
    return int(first.shape[1]) if isinstance(first, torch.Tensor) and first.ndim > 1 else None


def _shown(values: Sequence[Any]) -> str:
    """Shapes and types of tensors, for a message."""
    return ", ".join(
        f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" if torch.is_tensor(value) else type(value).__name__
        for value in values
    )


def as_program(saved: SavedModule, *, learns: bool) -> SavedModule:
    """A saved module with its graph in the place of its class, for which nothing need be imported.

    Args:
        saved: with a form, and rows that it was tried with.
        learns: whether the graph in training is wanted too.

    Raises:
        UnsupportedModelError: if it has no graph.
    """
    assert saved.form is not None, "it was tried"
    module, form = make_module(saved), saved.form
    inputs = _inputs_of(saved.rows, form, saved.tokenizer, dtype=dtype_of(module))
    example = Example(inputs, outputs_in, form.names, tokens=bool(form.text or form.tokens))
    spec, constants = program_of(module, example, learns=learns)
    return replace(saved, spec=spec, constants=constants, weights=saved.weights or weights_of(module))


def _inputs_of(
    rows: Sequence[Any], form: InputForm, tokenizer: StoredTokenizer | None, *, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Forward's arguments of a few rows: texts, or lists of numbers."""
    kind = pa.string() if form.text else pa.list_(pa.int32() if form.whole else pa.float32())
    encode = encoder(tokenizer, form) if tokenizer is not None else None
    return _arguments(pa.array(rows, kind), form, encode, dtype=dtype)


def _arguments(rows: pa.Array, form: InputForm, encode: Any, *, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Forward's arguments of rows without nulls."""
    if encode is not None:
        ids, mask = padded(encode(rows.to_pylist()), pad_id=form.pad_id)
        return torch.from_numpy(ids), torch.from_numpy(mask)
    if form.tokens:
        lengths = np.diff(rows.offsets.to_numpy()) // form.tokens
        return form.token_arguments(rows.flatten().to_numpy(zero_copy_only=False), lengths)
    inputs = form.arguments(matrix(rows, width=sum(form.widths)))
    return tuple(value.to(dtype) if value.is_floating_point() else value for value in inputs)


def _probabilities(raw: torch.Tensor, activation: str) -> torch.Tensor | None:
    if activation == "softmax":
        return torch.sigmoid(raw) if raw.shape[1] == 1 else raw.softmax(dim=1)
    if activation == "none":
        return None
    if activation == "sigmoid":
        return raw.sigmoid()
    return raw.exp() if activation == "exp" else raw


def matrix(rows: pa.Array, *, width: int) -> NDArray[Any]:
    """Lists of numbers as (B, width); width 0: as wide as the first.

    Raises:
        DataError: if a row has another number of them.
    """
    lengths = np.diff(rows.offsets.to_numpy())
    width = width or int(lengths[0])
    if (lengths != width).any():
        odd = int(lengths[lengths != width][0])
        raise DataError(f"A row has {odd} numbers: expected {width}, as the model was fitted on. Give it the same columns")
    start = rows.offsets[0].as_py()
    values: NDArray[Any] = rows.values.to_numpy(zero_copy_only=False)[start : start + len(rows) * width]
    return values.reshape(len(rows), width)


def valid_numbers(rows: pa.Array, *, whole: bool) -> pa.Array:
    """Lists of numbers as a module takes them, null where one of them is null, not a number or infinite."""
    element = pa.int32() if whole else pa.float32()
    numbers = rows.flatten()
    finite = pc.fill_null(pc.is_finite(numbers), False)
    bad = np.flatnonzero(~np.asarray(finite))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(rows), 0))
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    invalid = np.asarray(rows.is_null()).copy()
    invalid[np.searchsorted(ends, bad, side="right") - 1] = True
    kept = pc.if_else(finite, numbers, pa.scalar(0, numbers.type)).cast(element, safe=False)
    lists = pa.ListArray.from_arrays(pa.array(ends), kept)
    return pc.if_else(pa.array(~invalid), lists, pa.scalar(None, lists.type))


def input_of(given: Any, form: InputForm, *, columns: int) -> tuple[pa.Array, InputForm]:
    """The input of rows that a function got, as one list a row, and its form with the columns' numbers.

    Args:
        given: an array, or a tuple of them.
        form: of the input.
        columns: as many arrays as there should be, where there is not one of all numbers.

    Raises:
        DataError: on another number of arrays, or of numbers.
    """
    arrays = given if isinstance(given, tuple) else (given,)
    if len(arrays) not in (1, columns):
        raise DataError(
            f"The function got {len(arrays)} arguments: expected {columns}, as inputCols, or one array of all numbers"
        )
    batch, widths = joined(arrays, whole=form.whole)
    if len(arrays) < columns and (form.separate or form.names) and not form.widths:
        raise DataError(
            f"The function got one array of all numbers, and how many of them each of the {columns} inputCols has is not known "
            f"of a module that was not fitted here: expected {columns} arguments. Give them one by one"
        )
    if not widths or form.tokens:
        return batch, form
    if form.widths and form.widths != widths:
        raise DataError(f"The function's arguments have {list(widths)} numbers: expected {list(form.widths)}, as in training")
    return batch, replace(form, widths=widths)


def joined(columns: Sequence[pa.Array], *, whole: bool) -> tuple[pa.Array, tuple[int, ...]]:
    """The numbers of several columns as one list a row, null where one of them is invalid, and how many each column brings.

    Args:
        columns: lists of numbers, or numbers.
        whole: whether they are integers.

    Raises:
        DataError: if rows of a column have other numbers of them.
    """
    lists = [valid_numbers(_as_lists(column), whole=whole) for column in columns]
    if len(lists) == 1:
        return lists[0], ()
    valid = np.logical_and.reduce([np.asarray(one.is_valid()) for one in lists])
    kept = [pc.if_else(pa.array(valid), one, pa.scalar(None, one.type)) for one in lists]
    lengths = np.array([np.asarray(pc.fill_null(pc.list_value_length(one), 0)) for one in kept])  # (columns, rows)
    seen = lengths[:, valid]
    if seen.size and (seen != seen[:, :1]).any() and (seen != seen[:1]).any():
        raise DataError(
            "Rows have other numbers in one input column than in another: expected as many of a column in each row, or as many "
            "in each column of a row"
        )
    ends = np.cumsum([0, *lengths.sum(axis=0)])
    flat = np.empty(ends[-1], np.int32 if whole else np.float32)
    starts = ends[:-1] + np.cumsum(lengths, axis=0) - lengths
    for one, start, length in zip(kept, starts, lengths, strict=True):
        before = np.cumsum(length) - length
        flat[np.repeat(start - before, length) + np.arange(length.sum())] = one.flatten().to_numpy(zero_copy_only=False)
    offsets = pa.array(ends.astype(np.int32), mask=np.append(~valid, False))
    widths = tuple(int(one) for one in seen[:, 0]) if seen.size else ()
    return pa.ListArray.from_arrays(offsets, pa.array(flat)), widths


def _as_lists(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        return column
    return pa.ListArray.from_arrays(pa.array(np.arange(len(column) + 1, dtype=np.int32)), column)


def _structs(scores: Scores) -> pa.Array:
    probability = pa.nulls(len(scores.raw), STRUCT[2].type) if scores.probability is None else _as_lists_of(scores.probability)
    return pa.StructArray.from_arrays([pa.array(scores.prediction), _as_lists_of(scores.raw), probability], fields=list(STRUCT))


def _as_lists_of(numbers: NDArray[np.float64]) -> pa.Array:
    offsets = np.arange(0, numbers.size + 1, numbers.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, numbers.reshape(-1))
