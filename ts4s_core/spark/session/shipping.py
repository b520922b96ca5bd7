"""The zip of ts4s_core that reaches executors which do not have it installed."""

from __future__ import annotations

import importlib.util
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import ts4s_core
from ts4s_core.process_state import PROCESS
from ts4s_core.spark.session import cluster

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = ("__pycache__", "java_home")


def package_folder() -> Path | None:
    """The folder of the running ts4s_core, or None where it runs out of a zip (which Spark has shipped already)."""
    folder = Path(ts4s_core.__file__).parent
    return folder if folder.is_dir() else None


def write_zip(package: Path, target: Path) -> Path:
    """Write a package as a zip that Python imports from; the same sources give the same bytes.

    Args:
        package: the package's folder.
        target: the zip to write.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")):
            inside = path.relative_to(package.parent)
            if path.is_file() and not set(inside.parts) & set(_LEFT_OUT):
                archive.writestr(zipfile.ZipInfo(inside.as_posix(), date_time=_EPOCH), path.read_bytes())
    return target


def ship_code(session: SparkSession, paths: Iterable[str]) -> None:
    """Send executors the code that is not installed there: this package, and the modules that import paths name.

    On this host they have this package; of others, those that stand outside of the installation (a program's own folder) are
    sent anyway, because a worker process does not look there. A module is sent once an application, as it is then.

    Args:
        session: the session.
        paths: ``module:name`` each.
    """
    application = cluster.application_of(session)
    for top in sorted({path.partition(":")[0].partition(".")[0] for path in paths} | {ts4s_core.__name__}):
        shipped = PROCESS.get_or_make("shipped modules", application, set[str])
        if top in shipped:
            continue
        shipped.add(top)
        if top == ts4s_core.__name__ and cluster.is_local(session):
            continue
        source = _source(top)
        if source is None:
            continue
        if source.is_file():
            cluster.send_code(session, source)
        else:
            cluster.send_code(session, write_zip(source, cluster.folder_for_code(session) / f"{top}.zip"))


def _source(top: str) -> Path | None:
    """The file or folder of a module that is not part of the installation, or None."""
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if found is None or not found.origin or found.origin in ("built-in", "frozen"):
        return None
    origin = Path(found.origin).resolve()
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    if not origin.is_file() or (top != ts4s_core.__name__ and any(origin.is_relative_to(home) for home in homes)):
        return None
    return origin.parent if origin.name == "__init__.py" else origin
