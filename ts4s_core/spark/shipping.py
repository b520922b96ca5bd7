"""The zip of ts4s_core that reaches executors which do not have it installed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import ts4s_core

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
