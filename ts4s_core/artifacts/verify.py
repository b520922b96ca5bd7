"""Read a whole store, never a cache, and compare every byte with what the manifests say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from ts4s_core.artifacts.manifest import FileEntry, Manifest
from ts4s_core.artifacts.refs import KINDS, MANIFEST, ArtifactRef
from ts4s_core.artifacts.registry import KIND, REGISTRY, Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError, IntegrityError, NotFoundError
from ts4s_core.progress import Progress, silent

READ_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it should be: the object's path in the store, and what is wrong with it."""

    path: str
    problem: str


@dataclass(frozen=True)
class VerifiedVersion:
    """One row of the report."""

    ref: str
    files: int
    bytes: int
    damages: tuple[Damage, ...]


def verify(store: ArtifactStore, name: str | None = None, *, progress: Progress = silent) -> list[VerifiedVersion]:
    """Check every version of every kind (or of one model and all that it was made from), and the registry.

    Args:
        store: the store.
        name: check only what bears this name, and its lineage.
        progress: told of every version.

    Raises:
        NotFoundError: if nothing bears that name.
    """
    wanted = _all_versions(store) if name is None else _with_lineage(store, name)
    models = Registry(store).names() if name is None else [name]
    if name is not None and not wanted and not store.storage.folders(f"{REGISTRY}/{name}"):
        raise NotFoundError(f"Nothing in {store.storage.uri} is named {name}: see `ts4s models list`")
    rows = []
    for number, ref in enumerate(sorted(wanted), start=1):
        progress("verify", {"version": number, "versions": len(wanted), "artifact": str(ref)})
        rows.append(verify_version(store, ref))
    rows += [row for model in models if (row := _verify_registry(store, model)) is not None]
    return rows


def verify_version(store: ArtifactStore, ref: ArtifactRef) -> VerifiedVersion:
    """Check one version: its manifest, every file's size and hash, foreign files, and that its upstream exists."""
    try:
        manifest = store.manifest(ref)
    except (IntegrityError, NotFoundError) as exc:
        return VerifiedVersion(str(ref), 0, 0, (Damage(f"{ref}/{MANIFEST}", str(exc)),))
    damages = [*_file_damages(store, manifest), *_foreign_files(store, manifest), *_lost_upstream(store, manifest)]
    return VerifiedVersion(str(ref), len(manifest.files), sum(entry.size for entry in manifest.files), tuple(damages))


def upstream_refs(manifest: Manifest) -> list[ArtifactRef]:
    """The artifacts that a version was made from."""
    found = []
    for text in manifest.upstream.values():
        try:
            found.append(ArtifactRef.parse(str(text)))
        except InputError:  # a source outside the store
            continue
    return found


def _all_versions(store: ArtifactStore) -> set[ArtifactRef]:
    return {ref for kind, name in store.kinds_and_names() for ref in store.versions(kind, name)}


def _with_lineage(store: ArtifactStore, name: str) -> set[ArtifactRef]:
    waiting = [ref for kind in KINDS for ref in store.versions(kind, name)]
    seen: set[ArtifactRef] = set()
    while waiting:
        ref = waiting.pop()
        if ref in seen or not store.sealed(ref):
            continue
        seen.add(ref)
        try:
            waiting += upstream_refs(store.manifest(ref))
        except IntegrityError:
            continue  # reported when this version is checked
    return seen


def _file_damages(store: ArtifactStore, manifest: Manifest) -> Iterator[Damage]:
    for entry in manifest.files:
        path = f"{manifest.ref}/{entry.path}"
        size = store.storage.size(path)
        if size is None:
            yield Damage(path, f"is missing: expected {entry.size} bytes")
        elif size != entry.size:
            yield Damage(path, f"is damaged: expected {entry.size} bytes, got {size}")
        else:
            problem = _content_problem(store, path, entry)
            if problem:
                yield Damage(path, problem)


def _content_problem(store: ArtifactStore, path: str, entry: FileEntry) -> str | None:
    whole = hashlib.sha256()
    try:
        for start in range(0, entry.size, READ_BYTES):
            whole.update(store.storage.read_bytes(path, start=start, end=min(start + READ_BYTES, entry.size)))
    except NotFoundError:
        return "vanished while it was read"
    if whole.hexdigest() != entry.sha256:
        return f"is damaged: expected sha256 {entry.sha256}, got {whole.hexdigest()}"
    for index, group in enumerate(entry.row_groups or ()):
        data = store.storage.read_bytes(path, start=group.offset, end=group.offset + group.size) if group.size else b""
        if hashlib.sha256(data).hexdigest() != group.sha256:
            return f"has a row group {index} that is not what the manifest says"
    return None


def _foreign_files(store: ArtifactStore, manifest: Manifest) -> Iterator[Damage]:
    known = {f"{manifest.ref}/{entry.path}" for entry in manifest.files} | {f"{manifest.ref}/{MANIFEST}"}
    for entry in store.storage.list(str(manifest.ref)):
        if entry.path not in known:
            yield Damage(entry.path, "is not in the manifest")


def _lost_upstream(store: ArtifactStore, manifest: Manifest) -> Iterator[Damage]:
    for ref in upstream_refs(manifest):
        if not store.sealed(ref):
            yield Damage(str(ref), f"is missing, and {manifest.ref} was made from it")


def _verify_registry(store: ArtifactStore, name: str) -> VerifiedVersion | None:
    prefix = f"{REGISTRY}/{name}"
    stored = store.storage.list(prefix)
    if not stored:
        return None
    damages = []
    try:
        entries = Registry(store).entries(name)
        numbers = [entry.number for entry in entries]
        if numbers != list(range(1, len(numbers) + 1)):
            missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
            damages.append(Damage(prefix, f"has gaps: entries {missing} are missing"))
        for alias, version in Registry(store).aliases(name).items():
            if not store.sealed(ArtifactRef(KIND, name, version)):
                damages.append(Damage(f"{KIND}/{name}/{version}", f"is missing, and {name}@{alias} points to it"))
    except IntegrityError as exc:
        damages.append(Damage(prefix, str(exc)))
    return VerifiedVersion(prefix, len(stored), sum(entry.size for entry in stored), tuple(damages))
