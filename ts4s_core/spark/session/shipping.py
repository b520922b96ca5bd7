"""The zip of ts4s_core that reaches executors which do not have it installed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import ts4s_core
from ts4s_core.modules.sources import digest, source_of, sources, zip_name
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
    """Write a package or a module's file as a zip that Python imports from; the same sources give the same bytes.

    Args:
        package: the package's folder, or the file.
        target: the zip to write.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*")) if package.is_dir() else [package]:
            inside = path.relative_to(package.parent)
            if path.is_file() and not set(inside.parts) & set(_LEFT_OUT):
                archive.writestr(zipfile.ZipInfo(inside.as_posix(), date_time=_EPOCH), path.read_bytes())
    return target


def ship_code(session: SparkSession, paths: Iterable[str]) -> dict[str, str]:
    """Send executors the code that is not installed there: this package, and the modules that import paths reach.

    On this host they have this package; of others, those that stand outside of the installation (a program's own folder) are
    sent anyway, because a worker process does not look there. Each text of a module is sent once an application.

    Args:
        session: the session.
        paths: ``module:name`` each.

    Returns:
        hash of each module's text, which workers make sure of (:func:`ts4s_core.modules.sources.renew`).

    Raises:
        InputError: if a module was edited after it was imported.
    """
    texts = sources(paths)
    wanted = dict(texts)
    package = package_folder()
    if package is not None and not cluster.is_local(session):
        wanted[ts4s_core.__name__] = digest(package)
    shipped = PROCESS.get_or_make("shipped modules", cluster.application_of(session), set[tuple[str, str]])
    for top, text in wanted.items():
        source = source_of(top)
        if (top, text) not in shipped and source is not None:
            cluster.send_code(session, write_zip(source, cluster.folder_for_code(session) / zip_name(top, text)))
            shipped.add((top, text))
    return texts
