"""Garbage collection: what nothing needs any more goes, after a grace time.

Kept are: whatever an alias points to, or would after one rollback; the newest few versions of every name; everything
younger than the grace time; reports of a kept version; the lineage of all that is kept. While anybody holds a lease, or has
said that the store is in use, no sealed version is removed, since it may be read; nor is what was begun under that.

A collection holds a lease of its own, for which everybody waits who begins to use the store, so nothing is promoted or begun
meanwhile. Should it be taken for dead itself, it finds that out before it deletes the next thing: right before each deletion
it looks at its lease and at what the aliases say, and once more after the manifest is gone, which it puts back if need be.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from ts4s_core.artifacts.leases.claims import BEAT, CLAIM, STORE_LEASE, path_of, remove, stray_beats
from ts4s_core.artifacts.leases.lease import COLLECTION_LEASE, LEASES, Lease
from ts4s_core.artifacts.leases.watch import Seen, Watch
from ts4s_core.artifacts.registry import KIND, Registry
from ts4s_core.artifacts.staging import reservation_of
from ts4s_core.artifacts.storage.objects import Upload
from ts4s_core.artifacts.storage.storage import RESERVATION
from ts4s_core.artifacts.storage.storage_types import Stored
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import upstream_refs
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import KINDS, MANIFEST, TEMPORARY, ArtifactRef
from ts4s_core.artifacts.writer import created_of
from ts4s_core.errors import ConflictError, InputError, IntegrityError

GRACE_S = 24 * 3600.0
KEEP_LAST = 3
_PASSING = (COLLECTION_LEASE, STORE_LEASE)


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
    watch = Watch(store.storage)
    planned = _Plan(store, watch, grace_s=grace_s, keep_last=keep_last, now=now)
    if dry_run or not planned.items:
        return planned.items
    # Whoever begins from now on waits; who began before is seen, and keeps all that it may need.
    with Lease.hold(store, COLLECTION_LEASE, doing="models gc") as lease:
        plan = _Plan(store, watch, grace_s=grace_s, keep_last=keep_last, now=_store_time(store, lease) if now is None else now)
        # Trained versions first: should one be needed after all, nothing that it was made from is gone.
        for item in sorted(plan.items, key=lambda item: not item.path.startswith(f"{KIND}/")):
            lease.check()
            plan.carry_out(item)
    return plan.items


class _Plan:
    """The things that are to be removed, and the state of the store that this was decided on."""

    def __init__(self, store: ArtifactStore, watch: Watch, *, grace_s: float, keep_last: int, now: float | None) -> None:
        self._store = store
        now = time.time() if now is None else now
        self._oldest, self._lately = now - grace_s, now - store.storage.limits.expires_s
        # What holds the store for a moment, or is a collection's, needs no version.
        names = store.storage.folders(LEASES)
        users = [name for name in names if name not in _PASSING]
        claims = watch.settled(users) | {name: watch.look(name) for name in names if name in _PASSING}
        self._living = {seen.claim.token for name in users for seen in claims[name] if not seen.dead}
        self._listed = store.storage.list("", temporary=True)
        uploads = [upload for upload in store.storage.unfinished_uploads() if self._is_old(upload)]
        self._uploads = {upload.upload_id: upload for upload in uploads}
        self.items = self._half_written()
        if not self._living:
            self.items += self._unreferenced(keep_last)
        self.items += [Collected(upload.path, 0, "unfinished upload", upload.upload_id) for upload in uploads]
        self.items += _dead_leases(store, claims)

    def carry_out(self, item: Collected) -> None:
        """Remove one thing.

        Raises:
            ConflictError: if it is needed after all: somebody decided meanwhile.
        """
        store, segments = self._store, item.path.split("/")
        if item.upload is not None:
            store.storage.abort_upload(self._uploads[item.upload])
        elif segments[0] == LEASES:
            _remove_claim(store, item.path)
        elif segments[0] in KINDS and len(segments) == 3 and not segments[2].startswith(TEMPORARY):
            _delete_unless_needed(store, ArtifactRef.parse(item.path))
        elif store.storage.exists(item.path):
            store.storage.delete(item.path)
        else:
            store.storage.delete_tree(item.path)

    def _half_written(self) -> list[Collected]:
        everything = self._listed
        sealed = {entry.path.removesuffix(f"/{MANIFEST}") for entry in everything if entry.path.endswith(f"/{MANIFEST}")}
        groups: dict[str, list[Stored]] = {}
        for entry in everything:
            segments = entry.path.split("/")
            hidden = next((index for index, segment in enumerate(segments) if segment.startswith(TEMPORARY)), len(segments))
            if segments[0] in KINDS and len(segments) > 3 and hidden > 2 and "/".join(segments[:3]) not in sealed:
                groups.setdefault("/".join(segments[:3]), []).append(entry)
            elif hidden < len(segments):
                groups.setdefault("/".join(segments[: hidden + 1]), []).append(entry)
        return [
            Collected(path, sum(entry.size for entry in entries if not entry.path.endswith(RESERVATION)), "half-written")
            for path, entries in sorted(groups.items())
            if (last := max(entry.mtime for entry in entries)) < self._oldest
            and not self._being_written(path, last)
            and not self._sealed_since(path, sealed)
        ]

    def _being_written(self, path: str, last: float = 0.0) -> bool:
        """Whether a version was begun under a lease or a mark that somebody living holds.

        In a folder its place is taken before that is written: where it was touched so lately, it may be on its way.
        """
        segments = path.split("/")
        if not self._living or segments[0] not in KINDS or len(segments) < 3:
            return False
        try:
            reservation = reservation_of(
                self._store.storage, ArtifactRef(segments[0], segments[1], segments[2].removeprefix(TEMPORARY))
            )
        except (InputError, IntegrityError):  # what lies there is no version
            return False
        if reservation is None:
            return last >= self._lately
        return any(fence.token in self._living for fence in reservation.fences)

    def _sealed_since(self, path: str, sealed: set[str]) -> bool:
        """Whether a version was sealed after the store was listed: then it has no writer any more, and is not half-written."""
        version = path.replace(f"/{TEMPORARY}", "/")
        return path.count("/") == 2 and version not in sealed and self._store.storage.exists(f"{version}/{MANIFEST}")

    def _is_old(self, upload: Upload) -> bool:
        return _begun(upload) < self._oldest and not self._being_written(upload.path)

    def _unreferenced(self, keep_last: int) -> list[Collected]:
        store = self._store
        # By the store's clock where that says later than the writer's did.
        written = {entry.path: entry.mtime for entry in self._listed if entry.path.endswith(f"/{MANIFEST}")}
        manifests: dict[ArtifactRef, Manifest] = {}
        kept: set[ArtifactRef] = set()
        for kind, name in store.kinds_and_names():
            refs = store.versions(kind, name)
            manifests |= {ref: store.manifest(ref) for ref in refs}
            newest = refs[len(refs) - keep_last :] if keep_last < len(refs) else refs
            # Nobody goes on from a checkpoint whose training came to its end.
            kept |= {ref for ref in newest if kind != "checkpoint" or store.find(KIND, name, manifests[ref].key) is None}
            kept |= {ref for ref in refs if max(_made(ref), written.get(f"{ref}/{MANIFEST}", 0.0)) >= self._oldest}
        registry = Registry(store)
        for name in registry.names():
            kept |= {ArtifactRef(KIND, name, version) for version in registry.needed(name)}
        kept = _with_lineage(kept, manifests)
        return [
            Collected(str(ref), sum(entry.size for entry in manifest.files), "unreferenced")
            for ref, manifest in sorted(manifests.items())
            if ref not in kept
        ]


def _with_lineage(kept: set[ArtifactRef], manifests: dict[ArtifactRef, Manifest]) -> set[ArtifactRef]:
    """What is kept, reports on it, and all that any of it was made from."""
    reports = [ref for ref, manifest in manifests.items() if ref.kind == "report" and kept & set(upstream_refs(manifest))]
    waiting, found = [*kept, *reports], set()
    while waiting:
        ref = waiting.pop()
        if ref in found or ref not in manifests:
            continue
        found.add(ref)
        waiting += upstream_refs(manifests[ref])
    return found


def _delete_unless_needed(store: ArtifactStore, ref: ArtifactRef) -> None:
    """Delete a version, unless an alias points to it by now; the manifest is put back where that turns out too late."""
    storage, path = store.storage, f"{ref}/{MANIFEST}"
    _refuse_if_needed(store, ref)
    manifest = storage.read_bytes(path) if storage.exists(path) else None
    if manifest is not None:
        storage.delete(path)
        try:
            _refuse_if_needed(store, ref)
        except ConflictError:
            storage.create(path, manifest, fenced=False)
            raise
    storage.delete_tree(str(ref))


def _refuse_if_needed(store: ArtifactStore, ref: ArtifactRef) -> None:
    if ref.kind == KIND and ref.version in Registry(store).needed(ref.name):
        raise ConflictError(f"{ref} is needed since it was looked at: an alias points to it. Run `ts4s models gc` again")


def _dead_leases(store: ArtifactStore, claims: dict[str, list[Seen]]) -> list[Collected]:
    # Of those that one waits for but a moment, whoever waits must know that it took the place of somebody who may wake.
    dead = [(name, seen.claim) for name in claims for seen in claims[name] if seen.ended or (seen.dead and name not in _PASSING)]
    found = [Collected(path_of(name, claim.token), 0, f"lease of {claim}, which is gone") for name, claim in dead]
    strays = [path for name in claims for path in stray_beats(store.storage, name)]
    return found + [Collected(path, 0, "renewal of a lease that is gone") for path in strays]


def _remove_claim(store: ArtifactStore, path: str) -> None:
    _, name, file = path.split("/")
    if file.endswith(BEAT):
        store.storage.delete(path, prune=True)
    else:
        remove(store.storage, name, file.removesuffix(CLAIM))


def _store_time(store: ArtifactStore, lease: Lease) -> float:
    """What time it is by the store's clock, which wrote the lease just now: this host's may be days ahead."""
    path = lease.fence.path
    written = [entry.mtime for entry in store.storage.list(path.rpartition("/")[0]) if entry.path == path]
    return max(written, default=time.time())


def _begun(upload: Upload) -> float:
    """When an upload was begun: as the server says, but no earlier than its version (some servers do not know)."""
    try:
        return max(upload.begun, _made(ArtifactRef.parse("/".join(upload.path.split("/")[:3]))))
    except InputError:
        return upload.begun


def _made(ref: ArtifactRef) -> float:
    return datetime.datetime.fromisoformat(created_of(ref.version)).timestamp()
