"""Downloads with bounded memory: ranges fetched in parallel, written in order, taken up again where they stopped."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

RANGE_BYTES = 8 * 2**20
PARALLEL = 4


def download(fs: Any, source: str, target: Path, *, size: int | None = None) -> None:
    """Copy an object into a local file.

    A target that holds the first bytes already (of an earlier attempt) is only completed; the caller compares the hash.

    Args:
        fs: an fsspec filesystem.
        source: the object's full path.
        target: the local file.
        size: bytes of the object, where known.
    """
    total = int(fs.info(source)["size"]) if size is None else size
    with target.open("ab") as file:
        there = os.fstat(file.fileno()).st_size
        if there > total:
            file.truncate(0)
            there = 0
        starts = iter(range(there, total, RANGE_BYTES))
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="download") as pool:

            def fetch(start: int) -> Future[bytes]:
                return pool.submit(fs.cat_file, source, start=start, end=min(start + RANGE_BYTES, total))

            waiting = deque(fetch(start) for _, start in zip(range(PARALLEL), starts, strict=False))
            try:
                while waiting:
                    file.write(waiting.popleft().result())
                    if (start := next(starts, None)) is not None:
                        waiting.append(fetch(start))
            finally:
                for future in waiting:
                    future.cancel()
