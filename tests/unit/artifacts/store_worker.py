"""One of several processes that use a store at once: ``store_worker.py promote|race URI NUMBER ROUNDS``.

Run by the tests as a program, since a child of theirs could not import a test module.
"""

from __future__ import annotations

import json
import sys

from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ConflictError
from ts4s_core.settings import StorageSettings

KEY = "1a2b3c4d" + "0" * 56


def promote(store: ArtifactStore, number: int, rounds: int) -> list[int]:
    """Publish and promote; the champion is a sealed version at every moment."""
    registry = Registry(store)
    for turn in range(rounds):
        with store.begin("trained", "demo", KEY, settings={}, upstream={}) as writer:
            writer.add_bytes("model.safetensors", f"{number} {turn}".encode())
            writer.seal()
        registry.decide("demo", to=writer.ref.version, why=f"{number} {turn}", who="test")
        champion = registry.alias("demo")
        assert champion is not None
        assert store.sealed(ArtifactRef("trained", "demo", champion))
    return list(range(rounds))


def race(store: ArtifactStore, number: int, rounds: int) -> list[int]:
    """Create the same objects as the others do; the turns that were won."""
    won = []
    for turn in range(rounds):
        try:
            store.storage.create(f"registry/demo/{turn:08d}.json", str(number).encode())
        except ConflictError:
            continue
        won.append(turn)
    return won


if __name__ == "__main__":
    work, uri, number, rounds = sys.argv[1:]
    settings = StorageSettings.model_validate(json.loads(uri))
    result = {"promote": promote, "race": race}[work](ArtifactStore.open(settings), int(number), int(rounds))
    sys.stdout.write(json.dumps(result))
