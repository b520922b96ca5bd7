"""Copies with bounded memory, in parallel pieces, hashed on the way; a download is taken up again where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ts4s_core.artifacts.storage.s3_parts import PieceClient
from ts4s_core.progress import Progress

RANGE_BYTES = 8 * 2**20
PART_BYTES = 8 * 2**20
#: S3 takes no more parts than this of one object.
MOST_PARTS = 10_000
PARALLEL = 6
#: Smaller files are not reported.
LEAST_REPORTED_BYTES = 16 * 2**20

Task = TypeVar("Task")
Result = TypeVar("Result")
#: Called with the bytes that are done, of how many.
BytesCallback = Callable[[int, int], None]
#: Bytes ``[start, end)`` of an object.
ReadRange = Callable[[int, int], bytes]


def ignore_bytes(done: int, total: int) -> None:
    """A callback that does nothing."""


def bytes_callback(progress: Progress, stage: str, path: str) -> BytesCallback:
    """A callback that reports ``upload range=12/250 mib_per_s=81.5 file=...`` to ``progress``; small files are not reported."""
    began = time.monotonic()

    def on_bytes(done: int, total: int) -> None:
        if total < LEAST_REPORTED_BYTES:
            return
        speed = done / 2**20 / max(time.monotonic() - began, 1e-3)
        ranges = -(-total // RANGE_BYTES)
        sent = ranges if done >= total else done // RANGE_BYTES
        progress(stage, {"range": sent, "ranges": ranges, "mib_per_s": round(speed, 1), "file": path})

    return on_bytes


def download(read: ReadRange, total: int, target: Path, *, on_bytes: BytesCallback = ignore_bytes) -> str:
    """Copy an object into a local file.

    A target that holds the first bytes already (of an earlier attempt) is only completed; the caller compares the hash.

    Args:
        read: gives bytes ``[start, end)`` of the object; called by several threads.
        total: bytes of the object.
        target: the local file.
        on_bytes: called after every piece.

    Returns:
        sha256 of the whole file, of the bytes that were there before too.
    """
    digest = hashlib.sha256()
    with target.open("a+b") as file:
        there = os.fstat(file.fileno()).st_size
        if there > total:
            file.truncate(0)
            there = 0
        file.seek(0)
        while chunk := file.read(RANGE_BYTES):
            digest.update(chunk)
        on_bytes(there, total)

        def fetch(start: int) -> bytes:
            return read(start, min(start + RANGE_BYTES, total))

        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            for piece in in_order(fetch, iter(range(there, total, RANGE_BYTES)), name="download"):
                written = writer.submit(file.write, piece)
                digest.update(piece)  # as long as the write, and beside it
                there += written.result()
                on_bytes(there, total)
    return digest.hexdigest()


def upload(fs: Any, pieces: PieceClient, source: Path, target: str, *, on_bytes: BytesCallback = ignore_bytes) -> tuple[int, str]:
    """Copy a local file into an object of S3, a large one in parallel parts; each byte is read once and hashed on its way.

    An upload that fails is aborted; one that cannot be aborted either is left to ``gc``.

    Args:
        fs: an s3fs filesystem, for a small file.
        pieces: for a large one.
        source: the local file.
        target: the object's full path.
        on_bytes: called after every part.

    Returns:
        size and sha256 of the bytes that were sent.
    """
    size = source.stat().st_size
    if size <= 2 * PART_BYTES:
        data = source.read_bytes()
        fs.pipe_file(target, data)
        on_bytes(len(data), len(data))
        return len(data), hashlib.sha256(data).hexdigest()
    bucket, _, key = target.partition("/")
    place = {"Bucket": bucket, "Key": key}
    upload_id = pieces.call("create_multipart_upload", **place)["UploadId"]
    try:
        digest, sent, tags = hashlib.sha256(), 0, []

        def send(part: tuple[int, bytes]) -> tuple[str, int]:
            number, data = part
            answer = pieces.call("upload_part", **place, UploadId=upload_id, PartNumber=number, Body=data)
            return str(answer["ETag"]), len(data)

        with source.open("rb") as file:
            parts = _parts(file, size, digest.update)
            for tag, length in in_order(send, parts, name="upload"):
                tags.append(tag)
                sent += length
                on_bytes(sent, size)
        listed = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
        _complete(pieces, place, upload_id, listed, sent)
    except BaseException:
        # The first failure is the one to tell.
        with contextlib.suppress(Exception):
            pieces.call("abort_multipart_upload", **place, UploadId=upload_id)
        raise
    return sent, digest.hexdigest()


def _complete(pieces: PieceClient, place: dict[str, str], upload_id: str, parts: list[dict[str, Any]], size: int) -> None:
    try:
        pieces.call("complete_multipart_upload", **place, UploadId=upload_id, MultipartUpload={"Parts": parts})
    except FileNotFoundError:
        # The first attempt may have arrived and only its answer been lost: the upload is gone then, and the object there.
        if int(pieces.call("head_object", **place)["ContentLength"]) != size:
            raise


def _parts(file: Any, size: int, update: Callable[[bytes], object]) -> Iterator[tuple[int, bytes]]:
    length, number = max(PART_BYTES, -(-size // MOST_PARTS)), 0
    while data := file.read(length):
        update(data)
        number += 1
        yield number, data


def in_order(work: Callable[[Task], Result], tasks: Iterator[Task], *, name: str) -> Iterator[Result]:
    """Results in the tasks' order; a task is taken only when one of the last :data:`PARALLEL` is done: memory is bounded."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix=name) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= PARALLEL:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
