"""Where the data are: a file, a folder, a glob or an ``s3://`` address, found and opened through fsspec."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ts4s_core.addresses import kept
from ts4s_core.errors import SourceError, Ts4sError, listed
from ts4s_core.host_user import expanded
from ts4s_core.settings import StorageSettings

ENDINGS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class SourceFile:
    """One file: its path for the filesystem, the name that errors show, its bytes."""

    path: str
    name: str
    size: int


@dataclass(frozen=True)
class SourceFiles:
    """The filesystem of a source. Picklable: the connection is made in the process that reads (s3fs must not be forked)."""

    source: str
    storage: StorageSettings

    def connect(self) -> tuple[Any, str]:
        """A new filesystem, and the source's path in it.

        Raises:
            SourceError: if no installed library serves the address.
        """
        scheme, _, rest = self.source.rpartition("://")
        if scheme in ("", "file"):
            import fsspec

            return fsspec.filesystem("file"), str(expanded(rest).absolute())
        if scheme in ("s3", "s3a"):
            import fsspec

            from ts4s_core.artifacts.storage.objects import s3_options

            options = s3_options(self.storage)
            return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True, **options), rest
        return _other(self.source)

    @contextlib.contextmanager
    def open(self, file: SourceFile) -> Iterator[BinaryIO]:
        """A seekable binary reader; whatever the driver raises while it is open becomes a SourceError."""
        with failures(file.name):
            fs, _ = self.connect()
            with fs.open(file.path, "rb") as reader:
                yield reader

    def find(self) -> tuple[list[SourceFile], bool]:
        """Every file of the source by path, hidden ones left out, and whether the source names one file alone.

        Raises:
            SourceError: if there is nothing, or it cannot be listed.
        """
        with failures(self.source):
            fs, path = self.connect()
            # Not isfile and isdir: these take a server that refuses or is away for "there is none".
            try:
                there = fs.info(path)
            except FileNotFoundError:
                there = {"type": "none"}
            if there["type"] == "file":
                return [SourceFile(path, kept(self.source), int(there["size"]))], True
            if there["type"] == "directory":
                found = {name: info for name, info in fs.find(path, detail=True).items() if not _hidden(name, path)}
                shown = self.source.rstrip("/") or "/"
                below = {name: f"{shown}/{name.rstrip('/')[len(path.rstrip('/')) + 1 :]}" for name in found}
            elif _GLOB & set(path):
                found = {name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"}
                below = {name: name for name in found}
            else:
                raise SourceError(f"data.source {self.source} does not exist: give a file, a folder, a glob or an s3:// address")
        if not found:
            raise SourceError(f"data.source {self.source} holds no files: give a file, a folder or a glob that has some")
        return [SourceFile(name, below[name], int(found[name]["size"])) for name in sorted(found)], False


def _hidden(name: str, folder: str) -> bool:
    """Spark writes ``_SUCCESS`` and ``.part-0.crc`` beside its data."""
    return any(part.startswith(("_", ".")) for part in name[len(folder.rstrip("/")) + 1 :].split("/"))


def _other(source: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as exc:
        raise SourceError(f"data.source {source} cannot be opened: {exc}. Give a path or an s3:// address") from exc
    return fs, path


@contextlib.contextmanager
def failures(name: str) -> Iterator[None]:
    """Turn what a filesystem raises into one SourceError that names the file."""
    try:
        yield
    except Ts4sError:
        raise
    except FileNotFoundError as exc:
        raise SourceError(f"Data file {name} cannot be read: there is no such file") from exc
    except PermissionError as exc:
        raise SourceError(f"Data file {name} cannot be read: access denied. Check the rights of this user or key") from exc
    except OSError as exc:
        raise SourceError(f"Data file {name} cannot be read: {exc}") from exc
    except Exception as exc:
        if type(exc).__module__.split(".")[0] not in ("botocore", "aiobotocore", "s3fs", "fsspec", "aiohttp"):
            raise
        raise SourceError(f"Data file {name} cannot be read: {type(exc).__name__}: {exc}") from exc


def ending_of(name: str) -> str:
    """``.tsv`` of ``/data/Train.TSV``."""
    return os.path.splitext(name.rsplit("/", 1)[-1])[1].lower()


def choose_format(source: str, files: list[SourceFile]) -> str:
    """The format that the files' endings tell.

    Raises:
        SourceError: if they tell none, or several.
    """
    formats = {ENDINGS[ending] for ending in (ending_of(file.name) for file in files) if ending in ENDINGS}
    known = ", ".join(f"{ending} ({name})" for ending, name in ENDINGS.items())
    if not formats:
        seen = sorted({ending_of(file.name) or "no ending" for file in files})
        raise SourceError(
            f"Format of data.source {source} is unknown: expected one of {known}, got {listed(seen)}. Set data.format"
        )
    if len(formats) > 1:
        raise SourceError(
            f"Format of data.source {source} is not clear: its files are {listed(sorted(formats))}. Set data.format to one"
        )
    return formats.pop()


def files_of_format(files: list[SourceFile], name: str) -> list[SourceFile]:
    """The files with an ending of that format; if none has one, all of them (as Hadoop's ``part-00000``)."""
    return [file for file in files if ENDINGS.get(ending_of(file.name)) == name] or files
