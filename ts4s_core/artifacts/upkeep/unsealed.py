"""Versions that were begun and never sealed: what a run that was killed leaves, and its next try takes away."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY, check_kind, check_name

if TYPE_CHECKING:
    from ts4s_core.artifacts.store import ArtifactStore

log = logging.getLogger(__name__)


def discard_unsealed(store: ArtifactStore, kind: str, name: str) -> list[str]:
    """Delete the half-written versions of a name.

    Only for who holds a lease under which alone they are written: somebody else's could be half-written because it is
    being written.

    Args:
        store: the store.
        kind: kind of the artifact.
        name: its name.

    Returns:
        the folders that were deleted.
    """
    prefix = f"{check_kind(kind)}/{check_name(name)}"
    found = []
    for folder in _folders(store, prefix):
        # Under its temporary name a version is not sealed, even if its manifest is written.
        if folder.startswith(TEMPORARY) or not store.storage.exists(f"{prefix}/{folder}/{MANIFEST}"):
            log.info("removing %s/%s, which a run that ended early left half-written", prefix, folder.removeprefix(TEMPORARY))
            store.storage.delete_tree(f"{prefix}/{folder}")
            # Its writer may have been between its last look and its seal: files that are gone make no version.
            store.storage.delete(f"{prefix}/{folder}/{MANIFEST}")
            found.append(f"{prefix}/{folder}")
    return found


def _folders(store: ArtifactStore, prefix: str) -> list[str]:
    """Names of the folders of all versions, those under a temporary name and empty ones included."""
    storage = store.storage
    with storage.failures("list", prefix):
        try:
            found = storage.fs.ls(storage.full(prefix), detail=True)
        except FileNotFoundError:
            return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")
