"""Rows, window by window: the next one is read by a thread while this one is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from ts4s_core.training.batches.batch import Block
from ts4s_core.training.batches.batch_plan import BatchPlan, Rows, Window


class RowSource(Protocol):
    """Where rows come from; read by one thread at a time.

    Attributes:
        pad_id: token id that parts are filled up with.
    """

    pad_id: int

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side (``train``, ``validation``), in canonical order."""
        ...

    def read(self, side: str, groups: Sequence[int]) -> Block:
        """Some row groups, in the order given."""
        ...


@dataclass(frozen=True)
class PlannedStep:
    """A step's K parts, as row numbers of a block.

    Attributes:
        step: number within the run (or within the pass, for validation).
        epoch: its epoch.
        ends_epoch: whether it is the epoch's last.
    """

    step: int
    epoch: int
    ends_epoch: bool
    block: Block
    parts: list[Rows]


def planned_steps(source: RowSource, side: str, plan: BatchPlan, *, first: int, stop: int) -> Iterator[PlannedStep]:
    """The steps ``first`` .. ``stop - 1`` of a run, their rows read as they are needed: two windows are held at most."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:

        def read(span: _Span | None) -> Future[Block] | None:
            return None if span is None else reader.submit(source.read, side, span.window.row_groups)

        spans = _spans(plan, first, stop)
        span = next(spans, None)
        ahead = read(span)
        while span is not None and ahead is not None:
            block, here = ahead.result(), span
            span = next(spans, None)
            ahead = read(span)
            last_step = here.epoch_start + plan.steps_in_epoch(here.epoch) - 1
            for number, parts in enumerate(plan.compose(block.lengths, epoch=here.epoch, window=here.window.index)):
                step = here.epoch_start + here.window.first_step + number
                if first <= step < stop:
                    yield PlannedStep(step, here.epoch, step == last_step, block, parts)


@dataclass(frozen=True)
class _Span:
    """A window of an epoch; ``epoch_start`` is the run's number of the epoch's first step."""

    epoch: int
    epoch_start: int
    window: Window


def _spans(plan: BatchPlan, first: int, stop: int) -> Iterator[_Span]:
    epoch, epoch_start = 0, 0
    while epoch_start < stop:
        for window in plan.windows(epoch):
            begin = epoch_start + window.first_step
            if begin < stop and begin + window.steps > first:
                yield _Span(epoch, epoch_start, window)
        epoch_start += plan.steps_in_epoch(epoch)
        epoch += 1
