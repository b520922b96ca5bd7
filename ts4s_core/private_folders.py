"""Folders of this user alone in the shared temporary folder, one for each living program; a dead one's goes with the next start.

All stand in one folder of the user's (``ts4s-1000``, mode 0700), so that nothing in them can be planted, read or held open by
somebody else, and nobody else's files are looked at when dead ones are swept. Each has a lock file beside it: who holds the
lock, lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from ts4s_core.errors import SettingsError

_LOCK = ".lock"
_TRIES = 100


class PrivateFolder:
    """A new folder of mode 0700 with a lock that lasts as long as ``lock`` is open, here or in a process that inherited it.

    Attributes:
        path: the folder.
        lock: descriptor of its lock, for ``pass_fds`` of a process that goes on to use the folder.
    """

    def __init__(self, kind: str) -> None:
        """Make one, and remove the dead ones.

        Args:
            kind: what it is for, as in ``spark``.

        Raises:
            SettingsError: if the temporary folder cannot be written to.
        """
        try:
            self.path, self.lock = _made(kind)
        except OSError as exc:
            raise SettingsError(f"the temporary folder cannot be used: {exc}. Free space there, or set TMPDIR") from exc

    def remove(self) -> None:
        """Remove it, whoever else still holds the lock."""
        remove_private(self.path)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_raised: object) -> None:
        self.remove()


def remove_private(path: Path) -> None:
    """Remove a private folder, which another process may have made, and the user's own if that was the last in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.with_suffix(_LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another one is in it
        path.parent.rmdir()


def own_folder() -> Path:
    """This user's folder in the temporary folder, made if there is none."""
    return next(_own_folders(), None) or _new_own_folder()


def sweep() -> None:
    """Remove the folders of this user whose programs are dead."""
    for place in _own_folders():
        _sweep(place)


def _made(kind: str) -> tuple[Path, int]:
    sweep()
    for _ in range(_TRIES):
        place = own_folder()
        path = place / f"{kind}-{uuid.uuid4().hex[:12]}"
        lock_path = path.with_suffix(_LOCK)
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # another program took the user's folder away, which was empty
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:  # else it was swept before it was locked
            path.mkdir(mode=0o700)
            return path, lock
        os.close(lock)
    raise OSError(f"no folder could be made in {_TRIES} tries")


def _own_folders() -> Iterator[Path]:
    """Folders that are this user's and nobody else's; whatever others put under such a name is passed over unopened."""
    base, name = Path(tempfile.gettempdir()), f"ts4s-{os.getuid()}"
    for place in (base / name, *sorted(base.glob(f"{name}-*"))):
        with contextlib.suppress(FileNotFoundError):
            found = place.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
                yield place


def _new_own_folder() -> Path:
    place = Path(tempfile.gettempdir()) / f"ts4s-{os.getuid()}"
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:  # somebody else's, or not private
        return Path(tempfile.mkdtemp(prefix=f"{place.name}-"))
    return place


def _sweep(place: Path) -> None:
    for lock_path in place.glob(f"*{_LOCK}"):
        with contextlib.suppress(OSError):
            lock = os.open(lock_path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink(missing_ok=True)
            finally:
                os.close(lock)
