"""Where a fit keeps what driver and executors share while it runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ts4s_core.addresses import problem_of
from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError, Ts4sError
from ts4s_core.modules.saved import CONSTANTS, GRAPH, WEIGHTS, SavedModule
from ts4s_core.private_folders import PrivateFolder
from ts4s_core.settings import load_settings
from ts4s_core.spark.session import cluster
from ts4s_core.training.checkpoints.scratch_files import write_tensors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)


def begin_model(store: ArtifactStore, start: SavedModule) -> ArtifactRef:
    """The module that training starts from, as an artifact that workers read."""
    key = hashlib.sha256(json.dumps(start.spec, sort_keys=True).encode()).hexdigest()
    with store.begin("model", "start", key, settings={}, upstream={}) as writer, tempfile.TemporaryDirectory() as folder:
        writer.add_json("model.json", start.spec)
        for name, tensors in ((WEIGHTS, start.weights), (CONSTANTS, start.constants or None)):
            if tensors is not None:
                write_tensors(Path(folder) / name, tensors)
                writer.add_file(Path(folder) / name, name)
        if start.graph is not None:
            writer.add_bytes(GRAPH, start.graph)
        writer.seal()
        return writer.ref


@contextlib.contextmanager
def scratch(uri: str, frame: DataFrame) -> Iterator[ArtifactStore]:
    """A store for one fit, gone afterwards.

    Args:
        uri: folder or fsspec URL that all executors reach; empty: a temporary folder of this host.
        frame: of the session.

    Raises:
        SettingsError: if executors could not reach it.
    """
    problem = problem_of("scratchUri", uri)
    if problem is not None:
        raise SettingsError(problem)
    if not uri and not cluster.is_local(frame.sparkSession):
        raise SettingsError(
            f"scratchUri is empty and Spark's master is {cluster.master_of(frame.sparkSession)}: "
            "expected a folder or URL that every executor reaches. Set scratchUri"
        )
    # This host's own part is gone with the fit, or, should the fit be killed, with the next one that starts here.
    with PrivateFolder("fit") as folder:
        place = f"{uri.rstrip('/')}/ts4s-fit-{uuid.uuid4().hex[:12]}" if uri else str(folder / "store")
        given = load_settings({"storage": {"uri": place, "cache_dir": str(folder / "cache")}}).storage
        store = ArtifactStore.open(given)
        try:
            with in_use(store, "fit"):
                yield store
        finally:
            _remove(store)


def _remove(store: ArtifactStore) -> None:
    try:
        if store.storage.folder is not None:
            shutil.rmtree(store.storage.folder, ignore_errors=True)
        else:
            for entry in store.storage.list(temporary=True):
                store.storage.delete(entry.path)
    except Ts4sError as exc:
        log.warning("scratch files of a fit stay at %s: %s", store.storage.uri, exc)
