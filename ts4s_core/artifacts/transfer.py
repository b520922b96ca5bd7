"""Copies with bounded memory, in parallel pieces; a download is taken up again where it stopped."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ts4s_core.artifacts.verified import hash_file

RANGE_BYTES = 8 * 2**20
PART_BYTES = 16 * 2**20
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


def upload(fs: Any, source: Path, target: str) -> tuple[int, str]:
    """Copy a local file into an object of S3, in parallel parts, and hash it meanwhile.

    Args:
        fs: an s3fs filesystem.
        source: the local file.
        target: the object's full path.

    Returns:
        size and sha256 of the file.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        hashed = pool.submit(hash_file, source)
        fs.put_file(str(source), target, chunksize=PART_BYTES, max_concurrency=PARALLEL)
        return hashed.result()
