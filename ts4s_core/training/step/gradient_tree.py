"""The lower levels of the reduction tree: the sum of the gradients of a rank's own parts.

A rank computes P = K / W parts one after the other. They are a complete subtree, summed as a binary counter counts: the
first of a pair is copied into a level buffer, the second is added, and full levels are added upwards. ``log2 P`` buffers
are enough. Autograd hands over each parameter's gradient in a hook, so that no second copy of the gradient lives longer
than one parameter's.

Large embeddings bring rows instead (:mod:`ts4s_core.training.step.row_gradients`): only those are written, added and cleared, and
all others are zero at all times.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from ts4s_core.errors import TrainingError
from ts4s_core.training.exchange.exchange import Exchange, zero_buckets
from ts4s_core.training.step.row_gradients import RowGradients

_NO_ROWS = torch.zeros(0, dtype=torch.int64)


class GradientTree:
    """Takes gradients from autograd and hands full buckets to the exchange while the last part's backward still runs.

    Usage, for each part in order: ``begin(part)``, backward (or none, for a part without rows), ``end()``.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], exchange: Exchange, *, parts: int, rows: RowGradients | None = None
    ) -> None:
        self._exchange = exchange
        self._layout = exchange.layout
        self._parts = parts
        self._rows = rows
        by_rows = rows.names if rows else frozenset()
        self._levels = [exchange.gradients] + [zero_buckets(self._layout) for _ in range(max(0, parts.bit_length() - 2))]
        self._views = [self._layout.views(level) for level in self._levels]
        self._slots = {slot.name: slot for slot in self._layout.slots}
        self._by_rows = [slot for slot in self._layout.slots if slot.name in by_rows]
        self._dense = [slot for slot in self._layout.slots if slot.name not in by_rows]
        self._touched = [{slot.name: _NO_ROWS for slot in self._by_rows} for _ in self._levels]
        self._members = [0] * len(self._layout.bucket_sizes)
        for slot in self._layout.slots:
            self._members[slot.bucket] += 1
        self._whole = self._spans()
        self._part = 0
        self._seen: set[str] = set()
        self._missing: list[int] = []
        self._next_bucket = 0
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(functools.partial(self._take, name))  # type: ignore[no-untyped-call]
            for name, parameter in parameters.items()
        ]

    def begin(self, part: int) -> None:
        """The next backward is that of the rank's part number ``part`` (0 .. P-1)."""
        self._part = part
        self._seen = set()
        self._missing = list(self._members)
        self._next_bucket = 0
        if part == 0:
            self._clear_rows()

    def end(self) -> None:
        """The part's backward is over: parameters that it did not reach have gradient zero."""
        if self._first:
            views = self._views[self._level]
            for slot in self._dense:
                if slot.name not in self._seen:
                    views[slot.name].zero_()
        for slot in self._by_rows:
            self._take_rows(slot.name)
        if self._last:
            self._missing = [0] * len(self._missing)
            self._hand_over()
        else:
            for bucket in range(len(self._members)):
                self._carry(bucket)

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        if self._rows is not None:
            self._rows.close()

    @property
    def _first(self) -> bool:
        """Whether the part is the first of its pair."""
        return self._part % 2 == 0

    @property
    def _last(self) -> bool:
        return self._part == self._parts - 1

    @property
    def _level(self) -> int:
        """The buffer for this part: one for each full subtree that waits for its sibling."""
        return (self._part >> 1).bit_count()

    def _take(self, name: str, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:  # autograd calls even where backward gave nothing: the table of a RowGradients
            return
        if self._rows is not None and name in self._rows.names:
            raise TrainingError(
                f"Embedding {name} cannot be trained: expected its weight to be used by its own module alone, got another use in "
                "forward. To tie it, give a second module the same parameter"
            )
        view = self._views[self._level][name]
        if self._first:
            view.copy_(gradient)
        else:
            view.add_(gradient)
        parameter.grad = None
        self._seen.add(name)
        if self._last:
            self._missing[self._slots[name].bucket] -= 1
            self._hand_over()

    def _take_rows(self, name: str) -> None:
        assert self._rows is not None
        found = self._rows.take(name)
        if found is not None:
            self._add_rows(self._level, name, *found)

    def _add_rows(self, level: int, name: str, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Add rows to a level buffer: to the sibling's rows, or to zeros."""
        self._views[level][name].index_add_(0, ids, rows)
        known = self._touched[level][name]
        self._touched[level][name] = torch.unique(torch.cat([known, ids])) if len(known) else ids

    def _clear_rows(self) -> None:
        """Zero what the step before left in the gradients: own rows everywhere, and all of the own slices' sums."""
        for slot in self._by_rows:
            self._views[0][slot.name][self._touched[0][slot.name]] = 0
            self._touched[0][slot.name] = _NO_ROWS
        for span in self._whole:
            span.zero_()

    def _spans(self) -> list[torch.Tensor]:
        """Where tables of rows overlap with the own slices, in which the exchange leaves everybody's sum."""
        spans = []
        for slot in self._by_rows:
            start, stop = self._exchange.slices[slot.bucket]
            begin, end = max(start, slot.offset), min(stop, slot.offset + slot.size)
            if begin < end:
                spans.append(self._exchange.gradients[slot.bucket][begin:end])
        return spans

    def _hand_over(self) -> None:
        """Give complete buckets to the exchange, in their fixed order."""
        while self._next_bucket < len(self._missing) and self._missing[self._next_bucket] == 0:
            self._carry(self._next_bucket)
            self._exchange.bucket_done(self._next_bucket)
            self._next_bucket += 1

    def _carry(self, bucket: int) -> None:
        """Add full subtrees of a bucket upwards: a part number that ends in k ones closes k levels, the lowest is done."""
        if self._first:
            return
        part, level = self._part >> 1, self._level
        while part & 1:
            self._carry_level(bucket, level)
            level -= 1
            part >>= 1

    def _carry_level(self, bucket: int, level: int) -> None:
        """Add one level buffer of a bucket to the one above: row tables by rows, everything between them whole."""
        lower, upper = self._levels[level][bucket], self._levels[level - 1][bucket]
        start = 0
        for slot in self._by_rows:
            if slot.bucket != bucket:
                continue
            upper[start : slot.offset].add_(lower[start : slot.offset])
            start = slot.offset + slot.size
            ids = self._touched[level][slot.name]
            view = self._views[level][slot.name]
            self._add_rows(level - 1, slot.name, ids, view[ids])
            view[ids] = 0
            self._touched[level][slot.name] = _NO_ROWS
        upper[start:].add_(lower[start:])
