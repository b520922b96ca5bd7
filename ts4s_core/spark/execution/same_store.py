"""Whether a cluster's tasks see the store that this program sees, before anything is written into it."""

from __future__ import annotations

import json
import logging
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts4s_core.artifacts.storage.folder import nearest
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.artifacts.versions.refs import TEMPORARY
from ts4s_core.errors import SettingsError, Ts4sError
from ts4s_core.settings import StorageSettings
from ts4s_core.spark.session import cluster
from ts4s_core.training.job import storage_to_wire

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

_MOST_TASKS = 64


def require_same_store(session: SparkSession, settings: StorageSettings) -> None:
    """Put a number where the store is, let tasks look for it, and take it away.

    A store that this program cannot write to is left alone: it may be read where it is.

    Raises:
        SettingsError: naming the hosts that do not find it.
    """
    storage = Storage.open(settings)
    folder = storage.folder
    name, nonce = f"{TEMPORARY}same-{uuid.uuid4().hex}", uuid.uuid4().hex
    path = str(nearest(folder) / name) if folder is not None else name
    try:
        if folder is not None:
            Path(path).write_text(nonce)
        else:
            storage.write_bytes(path, nonce.encode())
    except (OSError, Ts4sError) as exc:
        log.debug("whether workers see the store is not tried: %s", exc)
        return
    try:
        tasks = max(1, min(_MOST_TASKS, cluster.cores(session)))
        look = _Look(path, nonce, storage_to_wire(settings) if folder is None else {})
        rows = session.range(0, tasks, 1, tasks).mapInArrow(look, "found string").collect()
    finally:
        if folder is not None:
            Path(path).unlink(missing_ok=True)
        else:
            storage.delete(path)
    found = [json.loads(row[0]) for row in rows]
    blind = sorted({f"{one['host']} ({one['problem']})" for one in found if one["problem"]})
    if blind:
        raise SettingsError(
            f"storage.uri {storage.uri} is not the same store for the tasks of {cluster.master_of(session)}: a file that this "
            f"program put there is not found on {', '.join(blind[:5])}. Give a folder that is mounted on every host, or "
            "s3://bucket/prefix"
        )


@dataclass(frozen=True)
class _Look:
    """Says of a task's host whether it finds the number, and else what it found."""

    path: str
    nonce: str
    storage: dict[str, Any] = field(repr=False)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for _batch in batches:
            pass
        problem = ""
        try:
            if self.storage:
                text = Storage.open(StorageSettings(**self.storage)).read_bytes(self.path).decode()
            else:
                text = Path(self.path).read_text()
            if text != self.nonce:
                problem = "another content"
        except (OSError, Ts4sError) as exc:
            problem = str(exc)[:200]
        yield pa.RecordBatch.from_pydict({"found": [json.dumps({"host": socket.gethostname(), "problem": problem})]})
