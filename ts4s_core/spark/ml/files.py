"""Files of a saved stage, at any path that Spark's own stages are saved to: through Hadoop's file systems, as Spark does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.errors import IntegrityError, SparkError
from ts4s_core.spark.session import classic
from ts4s_core.spark.session.failures import first_cause

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def write_files(session: SparkSession, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder.

    Raises:
        SparkError: if the file system refuses.
    """
    system, path = classic.hadoop_files(session, folder)
    with tempfile.TemporaryDirectory(prefix="ts4s-save-") as local:
        for name, data in files.items():
            (Path(local) / name).write_bytes(data)
            try:
                system.copyFromLocalFile(True, True, path(local, name, here=True), path(folder, name))
            except Exception as exc:
                raise SparkError(f"File {folder}/{name} cannot be written: {first_cause(exc)}") from exc


def read_files(session: SparkSession, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Those of some files that are in a folder.

    Raises:
        SparkError: if the file system refuses.
    """
    system, path = classic.hadoop_files(session, folder)
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="ts4s-load-") as local:
        for name in names:
            try:
                if system.exists(path(folder, name)):
                    system.copyToLocalFile(False, path(folder, name), path(local, name, here=True), True)
                    found[name] = (Path(local) / name).read_bytes()
            except Exception as exc:
                raise SparkError(f"File {folder}/{name} cannot be read: {first_cause(exc)}") from exc
    return found


def needed(files: Mapping[str, bytes], name: str, folder: str) -> bytes:
    """One file of those read.

    Raises:
        IntegrityError: if it is not there.
    """
    if name not in files:
        raise IntegrityError(
            f"Saved stage {folder} lacks {name}: expected what TorchModel or TorchEstimator saved. Save it again"
        )
    return files[name]
