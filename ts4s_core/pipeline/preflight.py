"""Every kind of write that a run will need, tried before hours of work depend on it; ``ts4s doctor`` tries the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ts4s_core.artifacts.storage.try_writes import try_writes
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, SettingsError
from ts4s_core.private_folders import PrivateFolder
from ts4s_core.settings import Settings

#: What a run writes of its own into the temporary folder and into shared memory for a trial.
_TRIAL = b"\0" * 4_096


class Trial(NamedTuple):
    """One kind of place that a run writes to.

    Attributes:
        name: the place.
        attempt: writes there and takes it away again; returns what was found, raises an ``InputError`` where a run would fail.
    """

    name: str
    attempt: Callable[[], str]


def trials(settings: Settings, store: ArtifactStore) -> Iterator[Trial]:
    """What a run with these settings writes to."""
    yield Trial("store", lambda: _store(store))
    if store.storage.folder is None:
        yield Trial("cache", store.try_cache)
    yield Trial("temporary folder", lambda: _temporary(settings))
    yield Trial("shared memory", _shared_memory)


def preflight(settings: Settings, store: ArtifactStore) -> None:
    """Try every place; nothing is left there.

    Raises:
        InputError: naming every place that does not take what a run writes.
        StoreError: if the store fails for another reason.
    """
    problems = []
    for trial in trials(settings, store):
        try:
            trial.attempt()
        except InputError as exc:
            problems.append(exc)
    if problems:
        raise problems[0] if len(problems) == 1 else SettingsError("; ".join(map(str, problems)))


def _store(store: ArtifactStore) -> str:
    try_writes(store.storage)
    how = "" if store.storage.conditional_writes else "; it cannot refuse to create twice, so writers take turns by a lease"
    return f"{store.storage.uri} takes every kind of write{how}"


def _temporary(settings: Settings) -> str:
    with PrivateFolder("trial") as folder:
        if settings.spark.master != "none" and "," in str(folder):
            raise SettingsError(
                f"temporary folder {tempfile.gettempdir()} has a comma, at which Spark cuts lists of folders. Set TMPDIR"
            )
        try:
            with (folder / "file").open("wb") as file:
                file.write(_TRIAL)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise SettingsError(
                f"temporary folder {tempfile.gettempdir()} cannot be written to: {exc.strerror}. Free space there, or set TMPDIR"
            ) from exc
    return f"{tempfile.gettempdir()} can be written to"


def _shared_memory() -> str:
    """A missing one is not an error: workers of one host then exchange gradients over the network."""
    try:
        descriptor = os.memfd_create("ts4s-trial", os.MFD_CLOEXEC)
    except (AttributeError, OSError) as exc:
        return f"none, workers of one host use the network ({exc})"
    try:
        os.posix_fallocate(descriptor, 0, len(_TRIAL))
    except OSError as exc:
        return f"none, workers of one host use the network ({exc.strerror})"
    finally:
        os.close(descriptor)
    return "there is some for workers of one host"
