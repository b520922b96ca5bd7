"""Preparing items ahead of their use, in one thread, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(items: Iterable[Item], make: Callable[[Item], Made], *, depth: int) -> Iterator[tuple[Item, Made]]:
    """Each item with the result of ``make``, which runs up to ``depth`` items ahead of the consumer."""
    if not depth:
        for item in items:
            yield item, make(item)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as maker:
        waiting: deque[tuple[Item, Future[Made]]] = deque()
        for item in items:
            waiting.append((item, maker.submit(make, item)))
            if len(waiting) > depth:
                first, made = waiting.popleft()
                yield first, made.result()
        for first, made in waiting:
            yield first, made.result()
