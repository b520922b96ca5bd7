"""What every storage has in common: an object in it, and the side of it that writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from ts4s_core.artifacts.storage.transfer import BytesCallback, ignore_bytes


def unchecked() -> None:
    """A check that always passes."""


class Stored(NamedTuple):
    """An object: path relative to the store, size in bytes, time of the last change in seconds since 1970.

    ``tag`` is another one after each change, by the server's word; empty where it gives none, and for files.
    """

    path: str
    size: int
    mtime: float
    tag: str = ""


class Files(Protocol):
    """The write side of a storage; :class:`ts4s_core.artifacts.storage.folder.FolderFiles` says what each method promises."""

    @property
    def conditional_writes(self) -> bool:
        """Whether the store itself refuses to create an object twice."""

    def write(self, path: str, data: bytes) -> None:
        """Write an object, over an older one."""

    def create(self, path: str, data: bytes, *, check: Callable[[], None] = unchecked) -> None:
        """Write an object that must not exist."""

    def put(self, path: str, local: Path, on_bytes: BytesCallback = ignore_bytes) -> tuple[int, str]:
        """Copy a local file in."""

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object."""

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object."""

    def move(self, source: str, target: str) -> None:
        """Give an object another name."""

    def delete_tree(self, folder: str) -> None:
        """Remove a folder."""

    def stage(self, folder: str) -> str:
        """Where a version is built."""
