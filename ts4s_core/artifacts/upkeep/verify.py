"""Read a whole store, never a cache, and compare every byte with what the manifests say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ts4s_core.artifacts.registry import KIND, REGISTRY, Registry
from ts4s_core.artifacts.storage.transfer import RANGE_BYTES, in_order
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import FileEntry, Manifest
from ts4s_core.artifacts.versions.refs import KINDS, MANIFEST, ArtifactRef
from ts4s_core.errors import InputError, IntegrityError, NotFoundError, listed
from ts4s_core.progress import Progress, silent


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
    made_from: tuple[str, ...] = ()
    code: str = ""


def verify(store: ArtifactStore, name: str | None = None, *, progress: Progress = silent) -> list[VerifiedVersion]:
    """Check every version of every kind (or of one model and all that it was made from), and the registry.

    Args:
        store: the store.
        name: check only what bears this name, and its lineage.
        progress: called after every version.

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
    size = sum(entry.size for entry in manifest.files)
    made_from = tuple(sorted(manifest.upstream))
    return VerifiedVersion(str(ref), len(manifest.files), size, tuple(damages), made_from, manifest.code)


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
    whole, groups = hashlib.sha256(), [hashlib.sha256() for _ in entry.row_groups or ()]
    try:
        for start, data in _pieces(store, path, entry):
            whole.update(data)
            for group, digest in zip(entry.row_groups or (), groups, strict=True):
                begin, end = max(group.offset, start), min(group.offset + group.size, start + len(data))
                if begin < end:
                    digest.update(data[begin - start : end - start])
    except NotFoundError:
        return "vanished while it was read"
    if whole.hexdigest() != entry.sha256:
        return f"is damaged: expected sha256 {entry.sha256}, got {whole.hexdigest()}"
    for index, (group, digest) in enumerate(zip(entry.row_groups or (), groups, strict=True)):
        if digest.hexdigest() != group.sha256:
            return f"has a row group {index} that is not what the manifest says"
    return None


def _pieces(store: ArtifactStore, path: str, entry: FileEntry) -> Iterator[tuple[int, memoryview]]:
    """The file once from its beginning to its end, the next pieces fetched while one is looked at."""

    def read(start: int) -> tuple[int, memoryview]:
        return start, memoryview(store.storage.read_range(path, start, min(start + RANGE_BYTES, entry.size)))

    return in_order(read, iter(range(0, entry.size, RANGE_BYTES)), name="verify")


def _foreign_files(store: ArtifactStore, manifest: Manifest) -> Iterator[Damage]:
    known = {f"{manifest.ref}/{entry.path}" for entry in manifest.files} | {f"{manifest.ref}/{MANIFEST}"}
    for entry in store.storage.list(str(manifest.ref)):
        if entry.path not in known:
            yield Damage(entry.path, "is not in the manifest")


def _lost_upstream(store: ArtifactStore, manifest: Manifest) -> Iterator[Damage]:
    for role, text in manifest.upstream.items():
        try:
            ref = ArtifactRef.parse(str(text))
            found = store.manifest(ref).content_sha256
        except NotFoundError:
            yield Damage(str(text), f"is missing, and {manifest.ref} was made from it")
        except InputError:  # a source outside the store
            continue
        except IntegrityError as exc:
            yield Damage(f"{text}/{MANIFEST}", f"is damaged, and {manifest.ref} was made from it: {exc}")
        else:
            made_from = manifest.upstream_sha256.get(role, found)
            if made_from != found:
                problem = f"is not what {manifest.ref} was made from: expected content sha256 {made_from}, got {found}"
                yield Damage(str(ref), problem)


def _verify_registry(store: ArtifactStore, name: str) -> VerifiedVersion | None:
    prefix = f"{REGISTRY}/{name}"
    stored = store.storage.list(prefix)
    if not stored:
        return None
    damages = []
    try:
        entries = Registry(store).entries(name)
        numbers = [entry.number for entry in entries]
        # Not the set of all numbers up to the last: a planted 99999999.json would fill the memory.
        gaps = [(before + 1, number - 1) for before, number in pairwise([0, *numbers]) if number != before + 1]
        if gaps:
            missing = listed(first if first >= last else f"{first} to {last}" for first, last in gaps)
            damages.append(Damage(prefix, f"has gaps: entries {missing} are missing"))
        for alias, version in Registry(store).aliases(name).items():
            if not store.sealed(ArtifactRef(KIND, name, version)):
                damages.append(Damage(f"{KIND}/{name}/{version}", f"is missing, and {name}@{alias} points to it"))
    except IntegrityError as exc:
        damages.append(Damage(prefix, str(exc)))
    return VerifiedVersion(prefix, len(stored), sum(entry.size for entry in stored), tuple(damages))
