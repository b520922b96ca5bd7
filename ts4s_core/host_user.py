"""Who runs this: the name and home of a user that the system may not know (a container's bare user id has neither)."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from ts4s_core.errors import SettingsError


def user_name() -> str:
    """The user's name; ``uid-54321`` where the system has none for that id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid()}"


def is_known() -> bool:
    """Whether the system has an entry for this user id: Java's login wants one."""
    try:
        import pwd
    except ImportError:  # no POSIX system
        return True
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


def home() -> Path | None:
    """The user's home folder, or None where nothing says which that is."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(text: str | Path) -> Path:
    """A path with ``~`` replaced.

    Raises:
        SettingsError: if nothing says what it stands for.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise SettingsError(
            f"path {text}: ~ stands for no folder, as user {user_name()} has no home. Give the whole path"
        ) from exc
