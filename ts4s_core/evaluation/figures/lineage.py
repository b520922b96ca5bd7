"""What a version comes from, read from the manifests' upstream references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.manifest import Manifest
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError, NotFoundError


@dataclass(frozen=True)
class Ancestor:
    """One artifact of a lineage; ``manifest`` is None where it is no longer in the store."""

    role: str
    ref: ArtifactRef
    manifest: Manifest | None
    #: whether the weights of a trained version were fitted on it
    trained_on: bool


def ancestors(store: ArtifactStore, ref: ArtifactRef) -> list[Ancestor]:
    """The version itself and everything it comes from, nearest first, each once.

    A version that was trained from another one (``model.source model:NAME@champion``) has that one's dataset among its ancestors:
    its weights have seen both.
    """
    found: dict[ArtifactRef, Ancestor] = {}
    waiting = [("", ref, False)]
    while waiting:
        role, current, trained_on = waiting.pop(0)
        if current in found:
            continue
        manifest = _manifest(store, current)
        found[current] = Ancestor(role or current.kind, current, manifest, trained_on)
        if manifest is not None:
            waiting += [(name, source, current.kind == "trained") for name, source in _sources(manifest)]
    return list(found.values())


def training_datasets(store: ArtifactStore, ref: ArtifactRef) -> tuple[list[ArtifactRef], list[ArtifactRef]]:
    """Datasets that the weights of a version were fitted on: those that are in the store, and those that are no longer."""
    used = [ancestor for ancestor in ancestors(store, ref) if ancestor.trained_on and ancestor.ref.kind == "dataset"]
    here = [ancestor.ref for ancestor in used if ancestor.manifest is not None]
    return here, [ancestor.ref for ancestor in used if ancestor.manifest is None]


def _sources(manifest: Manifest) -> Iterator[tuple[str, ArtifactRef]]:
    for role, source in manifest.upstream.items():
        try:
            yield role, ArtifactRef.parse(source)
        except InputError:  # what came from outside the store has no reference
            continue


def _manifest(store: ArtifactStore, ref: ArtifactRef) -> Manifest | None:
    try:
        return store.manifest(ref)
    except NotFoundError:
        return None
