"""A saved stage, at any path that Spark's own stages are saved to: its Params as Spark writes them, and files beside them.

A classic session copies files through Hadoop's file systems, as Spark does. A client of Spark Connect has none: there the files
are a table of pieces, written and read by the server. Each kind of session reads what the other one wrote.
"""

# ruff: noqa: N802
# Spark ML's own methods are written in camel case.

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.ml.util import MLWriter

from ts4s_core.errors import IntegrityError, SparkError
from ts4s_core.spark.session import classic, cluster
from ts4s_core.spark.session.failures import first_cause
from ts4s_core.spark.session.internals import described, description

if TYPE_CHECKING:
    from pyspark.ml.param import Params
    from pyspark.sql import SparkSession

#: Below the path of a stage.
DATA = "data"
_METADATA = "metadata"
_TABLE = "name string, piece int, content binary"
#: Of a table: messages of Spark Connect have a limit.
_PIECE_BYTES = 2**20
_PARQUET = ".parquet"


class StageWriter(MLWriter):
    """Writes a stage: its Params, and files.

    Args:
        stage: the stage.
        files: its files by name.
    """

    def __init__(self, stage: Params, files: Mapping[str, bytes]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stage = stage
        self._files = files

    def saveImpl(self, path: str) -> None:
        """See Spark."""
        session = self.sparkSession
        mode = "overwrite" if self.shouldOverwrite else "error"
        # As Spark itself does from 4.0 on, with or without a JVM here.
        try:
            session.createDataFrame([(described(self._stage, session),)], "value string").coalesce(1).write.mode(mode).text(
                f"{path}/{_METADATA}"
            )
            if cluster.is_connect(session):
                pieces = session.createDataFrame(_pieces(self._files), _TABLE)
                pieces.coalesce(1).write.mode(mode).parquet(f"{path}/{DATA}")
        except Exception as exc:
            raise SparkError(f"Stage {path} cannot be saved: {first_cause(exc)}") from exc
        if self._files and not cluster.is_connect(session):
            _copy_to(session, f"{path}/{DATA}", self._files)

    def _handleOverwrite(self, path: str) -> None:
        if not cluster.is_connect(self.sparkSession):  # else each folder is replaced as it is written
            super()._handleOverwrite(path)  # type: ignore[misc]


def read_metadata(session: SparkSession, path: str) -> dict[str, Any]:
    """What Spark says of a saved stage: class, uid, Params.

    Raises:
        SparkError: if there is none.
    """
    try:
        lines = session.read.text(f"{path}/{_METADATA}").collect()
    except Exception as exc:
        raise SparkError(f"Saved stage {path} cannot be read: {first_cause(exc)}") from exc
    return description("".join(line[0] for line in lines))


def read_files(session: SparkSession, path: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Those of some files that a saved stage has.

    Raises:
        SparkError: if the file system refuses.
    """
    folder = f"{path}/{DATA}"
    found = {} if cluster.is_connect(session) else _copy_from(session, folder, names)
    return found or _read_by_spark(session, folder, names)


def _read_by_spark(session: SparkSession, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a folder, or of the table that it is."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    try:
        raw = session.read.format("binaryFile").load(folder)
        there = [row[0].rpartition("/")[2] for row in raw.select("path").collect()]
        if any(name.endswith(_PARQUET) for name in there):
            pieces = session.read.parquet(folder)
        else:
            start = F.explode(F.sequence(F.lit(0), F.greatest(F.lit(0), ((F.col("length") - 1) / _PIECE_BYTES).cast("int"))))
            named = raw.select(F.element_at(F.split("path", "/"), -1).alias("name"), "content", start.alias("piece"))
            cut = F.expr(f"substring(content, piece * {_PIECE_BYTES} + 1, {_PIECE_BYTES})")
            pieces = named.select("name", "piece", cut.alias("content"))
        rows = pieces.where(F.col("name").isin(*names)).collect()
    except AnalysisException:  # there are no files
        return {}
    except Exception as exc:
        raise SparkError(f"Files in {folder} cannot be read: {first_cause(exc)}") from exc
    found: dict[str, bytes] = {}
    for row in sorted(rows, key=lambda row: (row["name"], row["piece"])):
        found[row["name"]] = found.get(row["name"], b"") + bytes(row["content"])
    return found


def _pieces(files: Mapping[str, bytes]) -> list[tuple[str, int, bytes]]:
    return [
        (name, start // _PIECE_BYTES, data[start : start + _PIECE_BYTES])
        for name, data in files.items()
        for start in range(0, max(1, len(data)), _PIECE_BYTES)
    ]


def _copy_to(session: SparkSession, folder: str, files: Mapping[str, bytes]) -> None:
    system, path = classic.hadoop_files(session, folder)
    with tempfile.TemporaryDirectory(prefix="ts4s-save-") as local:
        for name, data in files.items():
            (Path(local) / name).write_bytes(data)
            try:
                system.copyFromLocalFile(True, True, path(local, name, here=True), path(folder, name))
            except Exception as exc:
                raise SparkError(f"File {folder}/{name} cannot be written: {first_cause(exc)}") from exc


def _copy_from(session: SparkSession, folder: str, names: Iterable[str]) -> dict[str, bytes]:
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
