"""The files in a folder of data: none of them is left out silently.

Links to folders are followed, each folder once; what cannot be listed or read is refused by name; so is the folder of a table
format, whose files hold rows that were removed. Folders called ``NAME=VALUE``, as Hive and Spark write them, are columns.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ts4s_core.errors import SourceError

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
#: Folders, or files in a folder ``metadata``, that a table format keeps beside its data.
_TABLES = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "_spark_metadata": "what Spark's streaming wrote"}
_ICEBERG = "an Iceberg table"
_FOLDERS_ABOVE = 8


def is_hidden(name: str) -> bool:
    """Spark writes ``_SUCCESS`` and ``.part-0.crc`` beside its data; a column's folder may begin so too."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def local_files(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Path and size of every file below a folder of this host.

    Args:
        folder: the folder.
        seen: device and number of the folders that were read already; they are not read again, and those that are read join.

    Raises:
        SourceError: on the folder of a table format, a link to nothing, or what is no file.
        OSError: if a folder cannot be listed; its ``filename`` says which.
    """
    refuse_table(folder, os.listdir, shown=folder)
    yield from _below(folder, seen)


def _below(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    about = os.stat(folder)
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    refuse_marks({entry.name for entry in entries}, os.listdir, folder=folder, shown=folder)
    visible = [entry for entry in entries if not is_hidden(entry.name)]
    # Links last: a folder that stands here and is linked to as well is read where it stands.
    for entry in sorted(visible, key=lambda entry: entry.is_symlink()):
        try:
            about = entry.stat()
        except FileNotFoundError as exc:
            raise SourceError(f"Data file {entry.path} is a link to nothing: remove it, or bring back what it leads to") from exc
        if stat.S_ISDIR(about.st_mode):
            yield from _below(entry.path, seen)
        elif stat.S_ISREG(about.st_mode):
            yield entry.path, about.st_size
        else:
            raise SourceError(
                f"Data file {entry.path} is a pipe, a socket or a device: expected files and folders alone. Move it"
            )


def local_glob(pattern: str) -> list[str]:
    """What a glob names on this host, links followed and named last.

    Raises:
        PermissionError: if a folder on the way cannot be listed: its ``filename`` says which.
    """
    segments = pattern.split("/")
    for depth in range(2, len(segments)):
        for folder in glob.glob("/".join(segments[:depth]), recursive=True):
            if os.path.isdir(folder) and not is_hidden(os.path.basename(folder)):
                os.scandir(folder).close()
    return sorted(set(glob.glob(pattern, recursive=True)), key=lambda name: (os.path.islink(name), name))


def refuse_table(folder: str, names_in: Callable[[str], Iterable[str]], *, shown: str) -> None:
    """Refuse a folder that is part of a table format's: itself, or one above whose partition or data folder it is.

    Raises:
        SourceError: naming the format and the way out.
    """
    for _step in range(_FOLDERS_ABOVE):
        refuse_marks(set(names_in(folder)), names_in, folder=folder, shown=shown)
        above, _, name = folder.rstrip("/").rpartition("/")
        if not above or not ("=" in name or name == "data"):
            return
        folder = above


def refuse_marks(names: set[str], names_in: Callable[[str], Iterable[str]], *, folder: str, shown: str) -> None:
    """Refuse a folder with these entries if a table format keeps its log in it.

    Raises:
        SourceError: naming the format and the way out.
    """
    mark = next((mark for mark in _TABLES if mark in names), None)
    kind = _TABLES[mark] if mark else ""
    if mark is None and "metadata" in names:
        files = [name for name in _names(names_in, f"{folder.rstrip('/')}/metadata") if name.endswith(".metadata.json")]
        mark, kind = (f"metadata/{files[0]}", _ICEBERG) if files else (None, "")
    if mark is not None:
        raise SourceError(
            f"data.source {shown} is {kind} ({folder.rstrip('/')}/{mark}): its files hold rows that the table no longer has. "
            "Read it by its own reader, as a Spark table (data.format table, with that format's package in spark.conf), or "
            "write its rows out as Parquet first"
        )


def _names(names_in: Callable[[str], Iterable[str]], folder: str) -> list[str]:
    try:
        return sorted(names_in(folder))
    except NotADirectoryError:
        return []


def remote_names(fs: Any) -> Callable[[str], list[str]]:
    """The names of the entries of a folder on a filesystem of fsspec's."""

    def names_in(folder: str) -> list[str]:
        return [str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in fs.ls(folder, detail=True)]

    return names_in


def refuse_remote_tables(names: Iterable[str], *, folder: str, shown: str) -> None:
    """Refuse objects among which is the log of a table format.

    Raises:
        SourceError: naming the format and the way out.
    """
    by_folder: dict[str, set[str]] = {}
    for name in names:
        segments = name[len(folder.rstrip("/")) + 1 :].split("/")
        for depth, segment in enumerate(segments):
            by_folder.setdefault("/".join([folder.rstrip("/"), *segments[:depth]]), set()).add(segment)
    for place in sorted(by_folder):
        refuse_marks(by_folder[place], lambda path: by_folder.get(path, set()), folder=place, shown=shown)


def columns_in(path: str) -> tuple[tuple[str, str | None], ...]:
    """The columns that a file's folders are called after, of a path below the source."""
    named = (segment.partition("=") for segment in path.split("/")[:-1] if "=" in segment)
    pairs = ((urllib.parse.unquote(name), urllib.parse.unquote(value)) for name, _, value in named if name)
    return tuple((name, None if value == NO_VALUE else value) for name, value in pairs)


def rows_of_saved(found: Mapping[str, int], read: Callable[[str], bytes], *, shown: str) -> dict[str, int]:
    """The files with rows of what the library datasets wrote by ``save_to_disk``; of any other folder all files.

    Args:
        found: size by path.
        read: gives the content of one.
        shown: what errors call the folder.

    Raises:
        SourceError: if rows were chosen or put in order beside the files, which hold all of them.
    """
    by_name: dict[str, list[str]] = {}
    for path in found:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    if not (set(by_name) & {"state.json", "dataset_dict.json"} and any(name.endswith(".arrow") for name in by_name)):
        return dict(found)
    for state in by_name.get("state.json", ()):
        try:
            indices = json.loads(read(state)).get("_indices_data_files")
        except (ValueError, AttributeError) as exc:
            raise SourceError(
                f"data.source {shown}: {state} is not what the library datasets writes: {exc}. Save it again"
            ) from exc
        if indices:
            raise SourceError(
                f"data.source {shown} was saved by the library datasets with chosen rows beside its files ({state}): the files "
                "hold more. Save it again: load_from_disk(...).flatten_indices().save_to_disk(...)"
            )
    return {path: size for path, size in found.items() if path.endswith(".arrow")}
