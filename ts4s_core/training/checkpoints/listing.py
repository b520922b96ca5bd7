"""The checkpoints of a training, in order: of the later attempt first, of one attempt by step.

A version's name has the time of the host that wrote it, and hosts' clocks differ by minutes. So each checkpoint says which
attempt wrote it, counted over all runs of the step, and after which step.
"""

from __future__ import annotations

import logging
from typing import Any

from ts4s_core.artifacts.leases.lease import check_fences
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import LeaseHeldError, Ts4sError
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)


def place_of(job: TrainJob, step: int) -> dict[str, Any]:
    """A checkpoint's position in its training, as its manifest holds it among the settings."""
    return {"generation": job.generation, "step": step, "output": job.output}


def prune(store: ArtifactStore, name: str, key: str, *, keep: int) -> None:
    """Delete all but the newest checkpoints of a key.

    Raises:
        LeaseHeldError: if a lease that is held through the store was lost.
    """
    for old in checkpoints(store, name, key)[keep:]:
        try:
            check_fences(store.storage, store.storage.fences)
            store.delete(old)
        except LeaseHeldError:
            raise
        except (Ts4sError, OSError) as exc:
            log.warning("old checkpoint %s stays until gc: %s", old, exc)


def checkpoints(store: ArtifactStore, name: str, key: str, *, of: str | None = None) -> list[ArtifactRef]:
    """Sealed checkpoints of a training step, newest first.

    Args:
        store: where they are.
        name: the model's name.
        key: the step's.
        of: only those on the way to this trained version.
    """
    found = _manifests(store, name, key)
    wanted = [manifest for manifest in found if of is None or manifest.settings.get("output") == of]
    return [manifest.ref for manifest in sorted(wanted, key=_place, reverse=True)]


def last_generation(store: ArtifactStore, name: str, key: str) -> int:
    """The number of the last attempt that wrote a checkpoint; 0 if there is none, or only ones of an earlier ts4s."""
    return max((_place(manifest)[0] for manifest in _manifests(store, name, key)), default=0)


def _manifests(store: ArtifactStore, name: str, key: str) -> list[Manifest]:
    refs = [ref for ref in store.versions("checkpoint", name) if ref.version.endswith(f"-{key[:8]}")]
    return [manifest for ref in refs if (manifest := store.manifest(ref)).key == key]


def _place(manifest: Manifest) -> tuple[int, int, str]:
    """Attempt, step, version; checkpoints of an earlier ts4s say their step alone."""
    generation, step = (manifest.settings.get(name, 0) for name in ("generation", "step"))
    return (generation if type(generation) is int else 0, step if type(step) is int else 0, manifest.version)
