"""Garbage collection: what nothing needs any more goes, after a grace time.

Kept are: whatever an alias points to, or would after one rollback; the newest few versions of every name; everything
younger than the grace time; reports of a kept version; the lineage of all that is kept. While a run holds a lease no
sealed version is removed, since the run may reuse any of them.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from ts4s_core.artifacts.leases.lease import COLLECTION_LEASE, LEASES, Lease, claims, live_claims
from ts4s_core.artifacts.registry import KIND, Registry
from ts4s_core.artifacts.storage.objects import Upload
from ts4s_core.artifacts.storage.storage_types import Stored
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import upstream_refs
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import KINDS, MANIFEST, TEMPORARY, ArtifactRef
from ts4s_core.artifacts.writer import created_of
from ts4s_core.errors import InputError

GRACE_S = 24 * 3600.0
KEEP_LAST = 3


@dataclass(frozen=True)
class Collected:
    """One thing that was removed, or would be: an object, a folder or an unfinished upload, its size, and why."""

    path: str
    bytes: int
    reason: str
    upload: str | None = None


def collect(
    store: ArtifactStore, *, dry_run: bool, grace_s: float = GRACE_S, keep_last: int = KEEP_LAST, now: float | None = None
) -> list[Collected]:
    """Remove unreferenced versions, half-written ones, temporary files and the leases of dead runs.

    Args:
        store: the store.
        dry_run: only say what would be removed.
        grace_s: nothing younger is removed, in seconds.
        keep_last: newest versions of every kind and name that are kept.
        now: seconds since 1970; default: the clock.

    Raises:
        IntegrityError: if a manifest or a registry entry is damaged: what it needs is not known, so nothing is removed.
    """
    planned = _collect(store, dry_run=True, grace_s=grace_s, keep_last=keep_last, now=now)
    if dry_run or not planned:
        return planned
    # A run that begins from now on waits; one that began before is seen, and keeps all that it may need.
    with Lease.hold(store, COLLECTION_LEASE):
        return _collect(store, dry_run=False, grace_s=grace_s, keep_last=keep_last, now=now)


def _collect(store: ArtifactStore, *, dry_run: bool, grace_s: float, keep_last: int, now: float | None) -> list[Collected]:
    moment = time.time() if now is None else now
    living = [claim for name, held in live_claims(store.storage).items() if not name.startswith("_") for claim in held]
    # A version that a living run began is younger than the run's lease.
    oldest = min([moment - grace_s, *(claim.since for claim in living)])
    found = _half_written(store, oldest)
    if not living:
        found += _unreferenced(store, oldest, keep_last)
    uploads = {upload.upload_id: upload for upload in store.storage.unfinished_uploads() if _begun(upload) < oldest}
    found += [Collected(upload.path, 0, "unfinished upload", upload.upload_id) for upload in uploads.values()]
    found += _dead_leases(store)
    for item in [] if dry_run else found:
        if item.upload is None:
            _remove(store, item.path)
        else:
            store.storage.abort_upload(uploads[item.upload])
    return found


def _half_written(store: ArtifactStore, oldest: float) -> list[Collected]:
    everything = store.storage.list("", temporary=True)
    sealed = {entry.path.removesuffix(f"/{MANIFEST}") for entry in everything if entry.path.endswith(f"/{MANIFEST}")}
    groups: dict[str, list[Stored]] = {}
    for entry in everything:
        parts = entry.path.split("/")
        hidden = next((index for index, part in enumerate(parts) if part.startswith(TEMPORARY)), len(parts))
        if parts[0] in KINDS and len(parts) > 3 and hidden > 2 and "/".join(parts[:3]) not in sealed:
            groups.setdefault("/".join(parts[:3]), []).append(entry)
        elif hidden < len(parts):
            groups.setdefault("/".join(parts[: hidden + 1]), []).append(entry)
    return [
        Collected(path, sum(entry.size for entry in entries), "half-written")
        for path, entries in sorted(groups.items())
        if max(entry.mtime for entry in entries) < oldest
    ]


def _unreferenced(store: ArtifactStore, oldest: float, keep_last: int) -> list[Collected]:
    manifests: dict[ArtifactRef, Manifest] = {}
    kept: set[ArtifactRef] = set()
    for kind, name in store.kinds_and_names():
        refs = store.versions(kind, name)
        manifests |= {ref: store.manifest(ref) for ref in refs}
        newest = refs[len(refs) - keep_last :] if keep_last < len(refs) else refs
        # Nobody goes on from a checkpoint whose training came to its end.
        kept |= {ref for ref in newest if kind != "checkpoint" or store.find(KIND, name, manifests[ref].key) is None}
        kept |= {ref for ref in refs if _made(ref) >= oldest}
    registry = Registry(store)
    for name in registry.names():
        kept |= {ArtifactRef(KIND, name, version) for version in registry.needed(name)}
    waiting = [
        *kept,
        *(ref for ref, manifest in manifests.items() if ref.kind == "report" and kept & set(upstream_refs(manifest))),
    ]
    kept = set()
    while waiting:
        ref = waiting.pop()
        if ref in kept or ref not in manifests:
            continue
        kept.add(ref)
        waiting += upstream_refs(manifests[ref])
    return [
        Collected(str(ref), sum(entry.size for entry in manifest.files), "unreferenced")
        for ref, manifest in sorted(manifests.items())
        if ref not in kept
    ]


def _dead_leases(store: ArtifactStore) -> list[Collected]:
    return [
        Collected(f"{LEASES}/{name}/{claim.token}.json", 0, f"lease of {claim}, which is gone")
        for name in store.storage.folders(LEASES)
        for claim in claims(store.storage, name)
        if not claim.alive
    ]


def _remove(store: ArtifactStore, path: str) -> None:
    parts = path.split("/")
    if parts[0] in KINDS and len(parts) == 3 and not parts[2].startswith(TEMPORARY):
        store.delete(ArtifactRef.parse(path))
    elif store.storage.exists(path):
        store.storage.delete(path)
    else:
        store.storage.delete_tree(path)


def _begun(upload: Upload) -> float:
    """When an upload was begun: as the server says, but no earlier than its version (some servers do not know)."""
    try:
        return max(upload.begun, _made(ArtifactRef.parse("/".join(upload.path.split("/")[:3]))))
    except InputError:
        return upload.begun


def _made(ref: ArtifactRef) -> float:
    return datetime.datetime.fromisoformat(created_of(ref.version)).timestamp()
