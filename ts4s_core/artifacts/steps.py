"""Running a step: find the version that it made before, or make and seal a new one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter


@dataclass(frozen=True)
class StepResult:
    """The version that a step made or found.

    Attributes:
        ref: the version.
        reused: whether it was there already.
        seconds: time of this call.
        facts: the manifest's facts.
    """

    ref: ArtifactRef
    reused: bool
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, to cross a process boundary."""
        return {**dataclasses.asdict(self), "ref": str(self.ref)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StepResult:
        """What :meth:`to_json` wrote."""
        return cls(ArtifactRef.parse(record["ref"]), bool(record["reused"]), float(record["seconds"]), dict(record["facts"]))


def run_step(
    store: ArtifactStore,
    *,
    kind: str,
    name: str,
    key: str,
    settings: Mapping[str, Any],
    upstream: Mapping[str, object],
    reuse: bool,
    build: Callable[[ArtifactWriter], None],
) -> StepResult:
    """Return the version with this key, or let ``build`` write a new one and seal it.

    Args:
        store: where to look and to write.
        kind: kind of the artifact.
        name: its name.
        key: the step key.
        settings: what the manifest says of the settings.
        upstream: the artifacts it is made from, by role.
        reuse: whether a version with this key may be returned.
        build: writes the files and sets ``writer.facts``; when it raises, what it wrote is deleted.
    """
    started = time.monotonic()
    found = store.find(kind, name, key) if reuse else None
    if found is not None:
        return StepResult(found, True, time.monotonic() - started, store.manifest(found).facts)
    with store.begin(kind, name, key, settings=settings, upstream=upstream) as writer:
        build(writer)
        manifest = writer.seal()
    return StepResult(manifest.ref, False, time.monotonic() - started, manifest.facts)
