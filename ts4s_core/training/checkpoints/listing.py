"""The checkpoints of a training, in order."""

from __future__ import annotations

import logging

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import Ts4sError

log = logging.getLogger(__name__)


def prune(store: ArtifactStore, name: str, key: str, *, keep: int) -> None:
    """Delete all but the newest checkpoints of a key."""
    for old in checkpoints(store, name, key)[keep:]:
        try:
            store.delete(old)
        except (Ts4sError, OSError) as exc:
            log.warning("old checkpoint %s stays until gc: %s", old, exc)


def checkpoints(store: ArtifactStore, name: str, key: str) -> list[ArtifactRef]:
    """Sealed checkpoints of a training step, newest first."""
    refs = [ref for ref in store.versions("checkpoint", name) if ref.version.endswith(f"-{key[:8]}")]
    return [ref for ref in reversed(refs) if store.manifest(ref).key == key]
