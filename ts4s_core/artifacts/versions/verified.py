"""Size and sha256 of local files, checked once for each state of a file in this process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.errors import IntegrityError
from ts4s_core.process_state import PROCESS

CHUNK_BYTES = 2**20
_State = tuple[str, int, int, int]


def hash_file(path: Path) -> tuple[int, str]:
    """Size and sha256 of a local file, with bounded memory."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def remember(path: Path, sha256: str) -> None:
    """Note the hash of a file that this process just wrote, so that it need not read it again."""
    _seen()[_state(path, os.stat(path))] = sha256


def _seen() -> dict[_State, str]:
    """Hashes by state: a file that was not changed since (inode, size, change time) need not be hashed again."""
    return PROCESS.get_or_make("checked files", (), dict[_State, str])


def _state(path: Path, status: os.stat_result) -> _State:
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns)


def check_file(path: Path, entry: FileEntry, *, where: str) -> None:
    """Compare a local file with its manifest entry.

    Args:
        path: the file.
        entry: what the manifest says.
        where: the name to use in an error.

    Raises:
        IntegrityError: if the file is missing, cut or changed.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{where} is missing: expected {entry.size} bytes. Make or publish that version again") from None
    if status.st_size != entry.size:
        raise IntegrityError(
            f"{where} is damaged: expected {entry.size} bytes, got {status.st_size}. Make or publish that version again"
        )
    state = _state(path, status)
    known = _seen().get(state)
    if known is None:
        known = _seen()[state] = hash_file(path)[1]
    if known != entry.sha256:
        raise IntegrityError(
            f"{where} is damaged: expected sha256 {entry.sha256}, got {known}. Make or publish that version again"
        )
