"""Where the data are: a file, a folder, a glob or an ``s3://`` address, found and opened through fsspec."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ts4s_core.addresses import without_query
from ts4s_core.data.formats.decoding import COMPRESSED, NOT_UNFOLDED
from ts4s_core.data.listing import (
    columns_in,
    is_hidden,
    local_files,
    local_glob,
    refuse_remote_tables,
    refuse_table,
    remote_names,
    rows_of_saved,
)
from ts4s_core.errors import SourceError, Ts4sError, listed
from ts4s_core.host_user import expanded
from ts4s_core.settings import StorageSettings

log = logging.getLogger(__name__)

ENDINGS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
}
_GLOB = frozenset("*?[")
_SPOOL_BYTES = 2**20
#: Libraries whose errors say that a server refused or is away.
_CLIENTS = frozenset(
    (
        *("botocore", "aiobotocore", "s3fs", "fsspec", "aiohttp", "httpx", "httpx2", "httpcore", "httpcore2", "requests"),
        *("huggingface_hub", "gcsfs", "google", "adlfs", "azure"),
    )
)
#: Endings of files that describe data, or that programs leave beside them.
_NOTES = frozenset((".md", ".rst", ".html", ".pdf", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".log", ".crc", ".md5", ".sha256"))


@dataclass(frozen=True)
class SourceFile:
    """One file: its path for the filesystem, the name that errors show, its bytes, and the columns that its folders name."""

    path: str
    name: str
    size: int
    columns: tuple[tuple[str, str | None], ...] = ()


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
        if scheme == "s3":
            from ts4s_core.artifacts.storage.objects import s3_filesystem

            return s3_filesystem(self.storage), rest
        from ts4s_core.artifacts.storage.other_stores import other_filesystem

        return other_filesystem(self.source, self.storage, setting="data.source")

    @contextlib.contextmanager
    def open(self, file: SourceFile) -> Iterator[BinaryIO]:
        """A seekable binary reader; whatever the driver raises while it is open becomes a SourceError."""
        with failures(file.name):
            fs, _ = self.connect()
            if _speaks(fs, "http"):
                with fs.open(file.path, "rb", block_size=0) as reader:  # without places in it: few servers have them
                    yield from _spooled(reader)
                return
            with fs.open(file.path, "rb") as reader:
                yield reader

    def find(self) -> tuple[list[SourceFile], bool]:
        """Every file of the source by path, hidden ones left out, and whether the source names one file alone.

        Raises:
            SourceError: if there is nothing, or it cannot be listed.
        """
        with failures(self.source):
            fs, path = self.connect()
            there = self._kind(fs, path)
            if there["type"] == "file":
                if there["size"] is None:
                    raise SourceError(
                        f"data.source {without_query(self.source)}: expected a server that gives the file's size, got none. "
                        "Download it, and give the file"
                    )
                return [SourceFile(path, without_query(self.source), int(there["size"]))], True
            if there["type"] == "directory":
                found = self._below(fs, path)
                shown, base = self.source.rstrip("/") or "/", path.rstrip("/")
                below = {name: f"{shown}/{name.rstrip('/')[len(base) + 1 :]}" for name in found}
            elif _GLOB & set(path):
                base = path[: path.rfind("/", 0, min(map(path.find, _GLOB & set(path))))]
                found = self._globbed(fs, path, base)
                below = {name: name for name in found}
            else:
                raise SourceError(f"data.source {self.source} does not exist: give a file, a folder, a glob or an s3:// address")
        if not found:
            raise SourceError(f"data.source {self.source} holds no files: give a file, a folder or a glob that has some")
        found = rows_of_saved(found, lambda name: fs.cat_file(name), shown=self.source)
        columns = {name: columns_in(name[len(base) + 1 :]) for name in found}
        return [SourceFile(name, below[name], found[name], columns[name]) for name in sorted(found)], False

    def _kind(self, fs: Any, path: str) -> dict[str, Any]:
        # Not isfile and isdir: these take a server that refuses or is away for "there is none".
        try:
            if _is_local(fs):
                about = os.stat(path)
                kind = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}.get(stat.S_IFMT(about.st_mode))
                if kind is None:
                    raise SourceError(f"Data file {path} is a pipe, a socket or a device: expected a file or a folder")
                return {"type": kind, "size": about.st_size}
            return dict(fs.info(path))
        except FileNotFoundError:
            return {"type": "none"}

    def _below(self, fs: Any, folder: str, seen: set[tuple[int, int]] | None = None) -> dict[str, int]:
        """Path and size of the files below a folder."""
        if _is_local(fs):
            return dict(local_files(folder, set() if seen is None else seen))
        found = fs.find(folder, detail=True)
        refuse_remote_tables(found, folder=folder, shown=self.source)
        if "=" in folder or folder.rstrip("/").endswith("/data"):
            refuse_table(folder, remote_names(fs), shown=self.source)
        length = len(folder.rstrip("/")) + 1
        visible = {name: info for name, info in found.items() if not any(map(is_hidden, name[length:].split("/")))}
        # An object whose name ends in a slash stands for a folder.
        return {name: int(info["size"]) for name, info in visible.items() if not name.endswith("/")}

    def _globbed(self, fs: Any, pattern: str, base: str) -> dict[str, int]:
        """Path and size of the files that a glob names, and of those below the folders that it names."""
        found: dict[str, int] = {}
        above, asked, seen = set(), set(pattern.split("/")), set[tuple[int, int]]()
        for name in local_glob(pattern) if _is_local(fs) else sorted(fs.glob(pattern)):
            if any(is_hidden(part) and part not in asked for part in name[len(base) + 1 :].split("/")):
                continue
            about = self._kind(fs, name)
            if about["type"] == "directory":
                found |= self._below(fs, name, seen)
            elif about["type"] == "file":
                found[name] = int(about["size"])
                above.add(name.rpartition("/")[0])
            else:
                raise SourceError(f"Data file {name} is a link to nothing: remove it, or bring back what it leads to")
        for folder in sorted(above):
            refuse_table(folder, os.listdir if _is_local(fs) else remote_names(fs), shown=self.source)
        return found


def _spooled(reader: BinaryIO) -> Iterator[BinaryIO]:
    """A copy that can be read from any place, of what a server gives from beginning to end alone."""
    with tempfile.TemporaryFile(prefix="ts4s-source-") as copy:
        shutil.copyfileobj(reader, copy, _SPOOL_BYTES)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def _is_local(fs: Any) -> bool:
    return _speaks(fs, "file")


def _speaks(fs: Any, scheme: str) -> bool:
    return scheme in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


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
        # A folder below the source has a name of its own.
        which = exc.filename if isinstance(exc.filename, str) else name
        raise SourceError(f"Data file {which} cannot be read: access denied. Check the rights of this user or key") from exc
    except OSError as exc:
        raise SourceError(f"Data file {name} cannot be read: {exc}") from exc
    except Exception as exc:
        if type(exc).__module__.split(".")[0] not in _CLIENTS:
            raise
        raise SourceError(f"Data file {name} cannot be read: {type(exc).__name__}: {exc}") from exc


def ending_of(name: str) -> str:
    """``.tsv`` of ``/data/Train.TSV`` and of ``/data/train.tsv.gz``."""
    stem, ending = os.path.splitext(name.rsplit("/", 1)[-1].lower())
    return os.path.splitext(stem)[1] or ending if ending in COMPRESSED else ending


def choose_format(source: str, files: list[SourceFile]) -> str:
    """The format that follows from the files' endings.

    Raises:
        SourceError: if no ending is that of a format, or they are of several formats.
    """
    formats = {ENDINGS[ending] for ending in (ending_of(file.name) for file in files) if ending in ENDINGS}
    known = ", ".join(f"{ending} ({name})" for ending, name in ENDINGS.items())
    if not formats:
        seen = sorted({ending_of(file.name) or "no ending" for file in files})
        way_out = f"Unpack it, or compress it with {listed(COMPRESSED)}" if set(seen) & set(NOT_UNFOLDED) else "Set data.format"
        raise SourceError(f"Format of data.source {source} is unknown: expected one of {known}, got {listed(seen)}. {way_out}")
    if len(formats) > 1:
        raise SourceError(
            f"Format of data.source {source} is not clear: its files are {listed(sorted(formats))}. Set data.format to one"
        )
    return formats.pop()


def files_of_format(source: str, files: list[SourceFile], name: str) -> list[SourceFile]:
    """The files with an ending of that format; if none has one, all of them (as Hadoop's ``part-00000``).

    Raises:
        SourceError: if there are other files beside them that may hold rows too: a copy, or another ending.
    """
    chosen = [file for file in files if ENDINGS.get(ending_of(file.name)) == name]
    if not chosen:
        return files
    others = [file.name for file in files if ENDINGS.get(ending_of(file.name)) != name]
    odd = [other for other in others if ending_of(other) not in ENDINGS and not _is_note(other)]
    if odd:
        raise SourceError(
            f"data.source {source} has {len(chosen)} {name} files and {len(odd)} of other endings: {listed(odd, 5)}. Move or "
            f"rename them, or name the files by a glob, such as {source.rstrip('/')}/*{ending_of(chosen[0].name)}"
        )
    log_left_out(source, others, name)
    return chosen


def log_left_out(source: str, others: Sequence[str], name: str) -> None:
    """Warn of the files of a source that are not read, because they are of another format."""
    if others:
        log.warning("data.source %s: %d files are not %s and are left out: %s", source, len(others), name, listed(others, 5))


def _is_note(name: str) -> bool:
    """Whether a file describes the data beside it, such as a README."""
    word = name.rsplit("/", 1)[-1].lower()
    return os.path.splitext(word)[1] in _NOTES or word.split(".")[0] in ("readme", "license", "licence", "notice", "changelog")
