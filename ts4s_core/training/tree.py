"""The lower levels of the reduction tree: the sum of the gradients of a rank's own parts.

A rank computes P = K / W parts one after the other. They are a complete subtree, summed as a binary counter counts: the
first of a pair is copied into a level buffer, the second is added, and full levels are added upwards. ``log2 P`` buffers
are enough. Autograd hands over each parameter's gradient in a hook, so that no second copy of the gradient lives longer
than one parameter's.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from ts4s_core.training.exchange import Exchange, zero_buckets


class GradientTree:
    """Takes gradients from autograd and hands full buckets to the exchange while the last part's backward still runs.

    Usage, for each part in order: ``begin(part)``, backward (or none, for a part without rows), ``end()``.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], exchange: Exchange, *, parts: int) -> None:
        self._exchange = exchange
        self._layout = exchange.layout
        self._parts = parts
        levels = [exchange.gradients] + [zero_buckets(self._layout) for _ in range(max(0, parts.bit_length() - 2))]
        self._levels = levels
        self._views = [self._layout.views(level) for level in levels]
        self._slots = {slot.name: slot.bucket for slot in self._layout.slots}
        self._members = [0] * len(self._layout.bucket_sizes)
        for slot in self._layout.slots:
            self._members[slot.bucket] += 1
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

    def end(self) -> None:
        """The part's backward is over: parameters that it did not reach have gradient zero."""
        if self._first:
            views = self._views[self._level]
            for slot in self._layout.slots:
                if slot.name not in self._seen:
                    views[slot.name].zero_()
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
        assert gradient is not None
        view = self._views[self._level][name]
        if self._first:
            view.copy_(gradient)
        else:
            view.add_(gradient)
        parameter.grad = None
        self._seen.add(name)
        if self._last:
            self._missing[self._slots[name]] -= 1
            self._hand_over()

    def _hand_over(self) -> None:
        """Give complete buckets to the exchange, in their fixed order."""
        while self._next_bucket < len(self._missing) and self._missing[self._next_bucket] == 0:
            self._carry(self._next_bucket)
            self._exchange.bucket_done(self._next_bucket)
            self._next_bucket += 1

    def _carry(self, bucket: int) -> None:
        """Add full subtrees of a bucket upwards: part numbers ending in k ones close k levels, the lowest is done."""
        part, level = self._part >> 1, self._level
        if self._first:
            return
        while part & 1:
            self._levels[level - 1][bucket].add_(self._levels[level][bucket])
            level -= 1
            part >>= 1
