"""Room in a host's cache: versions that nobody read for a day go, those first that were read longest ago."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from pathlib import Path

from ts4s_core.artifacts.versions.refs import MANIFEST

log = logging.getLogger(__name__)

ARRIVING = "arriving"
#: A process may hold paths of what it was given, and open them later.
KEPT_S = 24 * 3600.0
#: Longest time between a use and the note of it; notes cost a write.
_NOTED_EVERY_S = 600.0
_DEPTH = 3  # kind/name/version


def note_use(path: Path) -> None:
    """Remember that a file was used now, by its access time, also where the device keeps none by itself."""
    with contextlib.suppress(OSError):  # somebody else's file, or gone: it is only not remembered
        status = path.stat()
        if time.time() - status.st_atime > _NOTED_EVERY_S:
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))


def make_room(root: Path, *, most_bytes: float, kept_s: float = KEPT_S) -> int:
    """Remove versions, read longest ago first, until the rest fits; and unfinished downloads that were given up.

    One process at a time does that; others go on without.

    Args:
        root: a store's folder in the cache.
        most_bytes: what may stay.
        kept_s: nothing that was used within so many seconds goes.

    Returns:
        bytes that were removed.
    """
    with (root / "room.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        before = time.time() - kept_s
        _remove_old_arrivals(root / ARRIVING, before)
        versions = sorted(_versions(root), key=lambda version: version[0])
        size, removed = sum(version[1] for version in versions), 0
        for used, bytes_, folder in versions:
            if size - removed <= most_bytes or used >= before:
                break
            log.info("removing %s from the cache: nobody read it since %s", folder, time.strftime("%F", time.gmtime(used)))
            shutil.rmtree(folder, ignore_errors=True)
            removed += bytes_
        return removed


def _versions(root: Path) -> list[tuple[float, int, Path]]:
    """Last use, bytes and folder of every version."""
    found = []
    for folder in root.glob("/".join("*" * _DEPTH)):
        if folder.is_dir() and folder.parts[len(root.parts)] != ARRIVING:
            states = [path.stat() for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
            if states:
                used = max(max(state.st_atime, state.st_mtime) for state in states)
                found.append((used, sum(state.st_size for state in states), folder))
    return found


def _remove_old_arrivals(folder: Path, before: float) -> None:
    """Beginnings of downloads that nobody went on with, and the locks beside them, unless one is held."""
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= before:
                continue
            with path.with_suffix(".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_suffix("").unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
