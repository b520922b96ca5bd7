"""Which rows are in which part of which step: pure functions of the data's shape, never of the number of workers.

An epoch permutes the row groups (at most 256 rows each, in the dataset's canonical order), cuts them into windows of
``GROUPS_PER_WINDOW`` row groups, and sorts a window's rows by length with a little noise. Batches are cut from that order,
then shuffled. So rows of one batch are alike in length, no epoch repeats another's batches, and a worker never holds more
than two windows, however large the dataset is.

A batch is cut into K parts of neighbouring lengths with uneven row counts, so that the largest padded part is as small as
can be. Parts are ordered so that every subtree of the reduction tree (and so every worker, for any number of workers)
holds long and short parts alike.

Everything follows from (rows per row group, lengths, batch_size, parts, seed, epoch).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ts4s_core.errors import DataError

GROUPS_PER_WINDOW = 64
#: Lengths are multiplied by 1 +- this before they are sorted, so that every epoch composes its batches anew: of 512 rows
#: in batches of 16, one batch in thirty comes back (at 0.01 one in six), and the largest of 4 parts is 1.045 x the mean
#: (at 0.01 1.037 x, at 0.04 1.053 x).
LENGTH_NOISE = 0.025
#: Keeps this module's random streams apart from others drawn from the same seed.
_STREAM_ORDER, _STREAM_WINDOW = 0x0D_0E, 0x0D_0F

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Row groups that are read together.

    Attributes:
        index: position in the epoch.
        first_step: number of the window's first step within its epoch.
        steps: number of its steps.
        row_groups: numbers of the row groups, in reading order.
    """

    index: int
    first_step: int
    steps: int
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """The order of one training run.

    Attributes:
        rows_per_group: rows of each row group, in canonical order.
        batch_size: rows of a global batch.
        parts: K, the parts of a batch.
        seed: seed of the order.
        shuffled: False: canonical order without noise, for validation.
        least_rows: of a part that has any; 2 for modules that normalise over the rows of a part.
    """

    rows_per_group: tuple[int, ...]
    batch_size: int
    parts: int
    seed: int
    shuffled: bool = True
    least_rows: int = 1

    def __post_init__(self) -> None:
        if sum(self.rows_per_group) == 0:
            raise DataError("There are no rows to plan batches for: expected at least one. Give more data")

    def windows(self, epoch: int) -> tuple[Window, ...]:
        """The windows of one epoch (counted from 0)."""
        return _windows(self, epoch)

    def steps_in_epoch(self, epoch: int) -> int:
        """Steps of one epoch; epochs may differ by a few, because a window's last batch may be short."""
        last = self.windows(epoch)[-1]
        return last.first_step + last.steps

    def total_steps(self, epochs: int, max_steps: int = 0) -> int:
        """Steps of the whole run: ``epochs``, or ``max_steps`` if that is not 0 and comes first."""
        if len(self.rows_per_group) <= GROUPS_PER_WINDOW:  # one window: every epoch has the same number
            steps = epochs * self.steps_in_epoch(0)
            return min(steps, max_steps) if max_steps else steps
        steps = 0
        for epoch in range(epochs):
            steps += self.steps_in_epoch(epoch)
            if max_steps and steps >= max_steps:
                return max_steps
        return steps

    def compose(self, lengths: NDArray[np.integer], *, epoch: int, window: int) -> list[list[Rows]]:
        """The steps of a window: for each, K arrays of row numbers within the window.

        Args:
            lengths: tokens of the window's rows, in reading order.
            epoch: number of the epoch.
            window: number of the window in it.

        Returns:
            One list of K arrays a step; an array may be empty; each is ordered by length.
        """
        count = len(lengths)
        sizes = [self.batch_size] * (count // self.batch_size)
        rest = count % self.batch_size
        if not self.shuffled:
            order = np.argsort(lengths, kind="stable")
            sizes += [rest] * bool(rest)
            return [self._parts(lengths, batch) for batch in _cut(order, sizes)]
        random = np.random.default_rng([_STREAM_WINDOW, self.seed, epoch, window])
        noise = 1 + LENGTH_NOISE * (2 * random.random(count) - 1)
        order = np.argsort(lengths * noise, kind="stable")
        if self.too_few(count):
            sizes[-1] += rest
        elif rest:
            sizes.insert(int(random.integers(len(sizes) + 1)), rest)
        batches = list(_cut(order, sizes))
        return [self._parts(lengths, batches[place]) for place in random.permutation(len(batches))]

    def too_few(self, rows: int) -> bool:
        """Whether the rows left of a window after whole batches are too few for a part, so that they join another batch."""
        return rows > self.batch_size and 0 < rows % self.batch_size < self.least_rows

    def _parts(self, lengths: NDArray[np.integer], batch: Rows) -> list[Rows]:
        by_length = batch[np.lexsort((batch, lengths[batch]))]
        parts = [by_length[start:stop] for start, stop in cut_evenly(lengths[by_length].tolist(), self.parts)]
        if any(0 < len(part) < self.least_rows for part in parts):
            parts = np.array_split(by_length, max(1, min(self.parts, len(batch) // self.least_rows)))
            parts += [by_length[:0]] * (self.parts - len(parts))
        costs = [len(part) * int(lengths[part[-1]]) if len(part) else 0 for part in parts]
        return [parts[place] for place in balanced_order(costs)]


@functools.lru_cache(maxsize=16)
def _windows(plan: BatchPlan, epoch: int) -> tuple[Window, ...]:
    order = np.arange(len(plan.rows_per_group))
    if plan.shuffled:
        order = np.random.default_rng([_STREAM_ORDER, plan.seed, epoch]).permutation(order)
    windows: list[Window] = []
    first = 0
    for start in range(0, len(order), GROUPS_PER_WINDOW):
        groups = tuple(int(group) for group in order[start : start + GROUPS_PER_WINDOW])
        rows = sum(plan.rows_per_group[group] for group in groups)
        steps = -(-rows // plan.batch_size) - plan.too_few(rows)
        windows.append(Window(len(windows), first, steps, groups))
        first += steps
    return tuple(windows)


def _cut(order: Rows, sizes: Sequence[int]) -> Iterator[Rows]:
    start = 0
    for size in sizes:
        yield order[start : start + size]
        start += size


def cut_evenly(lengths: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into at most ``parts`` runs so that the largest rows x longest is as small as can be.

    Returns:
        ``parts`` pairs (start, stop), longest rows first; empty ones last.
    """
    if not lengths:
        return [(0, 0)] * parts
    low, high = max(lengths[-1], 1), max(lengths[-1], 1) * len(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(_runs(lengths, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    runs = _runs(lengths, low)
    return runs + [(0, 0)] * (parts - len(runs))


def _runs(lengths: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    """Greedy from the longest row down: a run is as long as ``capacity`` padded tokens allow."""
    runs = []
    stop = len(lengths)
    while stop:
        start = max(0, stop - max(1, capacity // max(lengths[stop - 1], 1)))
        runs.append((start, stop))
        stop = start
    return runs


def balanced_order(costs: Sequence[int]) -> list[int]:
    """Order a power of two of parts so that both halves of every subtree cost about the same.

    The most expensive is put beside the cheapest, then pairs of parts alike, up to the root.
    """
    groups = [([place], cost) for place, cost in enumerate(costs)]
    while len(groups) > 1:
        groups.sort(key=lambda group: (-group[1], group[0]))
        half = len(groups) // 2
        groups = [
            (heavy[0] + light[0], heavy[1] + light[1])
            for heavy, light in zip(groups[:half], reversed(groups[half:]), strict=True)
        ]
    return groups[0][0]
