"""One byte flipped in each file of each kind of artifact, in a folder and on a server: all refused, by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify_version
from ts4s_core.artifacts.versions.refs import KINDS, MANIFEST, ArtifactRef
from ts4s_core.errors import IntegrityError
from ts4s_core.settings import StorageSettings

MADE_BY_A_RUN = ("onnx", "dataset", "model", "trained", "report")
KEY = "ab" * 32


@pytest.fixture(scope="module")
def real_store(model_flags: list[str], tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """A store with every kind: five made by a real run, the others from such files."""
    folder = tmp_path_factory.mktemp("flips")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TS4S_", "AWS_"))}
    environ |= {"HF_HUB_OFFLINE": "1", "PREFECT_HOME": str(folder / "prefect")}
    words = ["retrain", "--data.source", str(tsv), *model_flags, "--train.max_steps", "2", "--train.batch_size", "16"]
    words += ["--spark.master", "none", "--storage.uri", str(folder / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    store = ArtifactStore.open(StorageSettings(uri=str(folder / "store")))
    trained = store.local(store.versions("trained", "default")[0])
    report = store.local(store.versions("report", "default")[0])
    others = {
        "checkpoint": {"moments-00000.safetensors": trained / "model.safetensors", "state.json": trained / "training.json"},
        "text": {"sample.txt": trained / "metrics.csv", "sample.json": trained / "model.json"},
        "predictions": {"00000.parquet": report / "predictions.parquet", "card.json": report / "metrics.json"},
    }
    for kind, files in others.items():
        with store.begin(kind, "default", KEY, settings={}, upstream={}) as writer:
            for path, local in files.items():
                writer.add_file(local, path)
            writer.seal()
    return store


def versions(store: ArtifactStore) -> list[ArtifactRef]:
    return [ref for kind, name in store.kinds_and_names() for ref in store.versions(kind, name)]


def flip(store: ArtifactStore, path: str) -> bytes:
    """Turn one bit in the middle of an object; gives what it was before."""
    before = store.storage.read_bytes(path)
    middle = len(before) // 2
    store.storage.write_bytes(path, before[:middle] + bytes([before[middle] ^ 0x20]) + before[middle + 1 :])
    return before


def check_every_file(store: ArtifactStore, fresh: Any) -> int:
    """Flip, look, mend, for every file; ``fresh`` opens the store with an empty cache."""
    count = 0
    for ref in versions(store):
        for entry in store.manifest(ref).files:
            path = f"{ref}/{entry.path}"
            before = flip(store, path)
            assert [damage.path for damage in verify_version(store, ref).damages] == [path]
            reader = fresh()
            for read in (lambda: reader.local(ref), lambda: reader.local_file(ref, entry.path)):  # noqa: B023
                with pytest.raises(IntegrityError) as refused:
                    read()
                assert path in str(refused.value)
            with pytest.raises(IntegrityError) as refused, reader.open_file(ref, entry.path) as file:
                file.read()
            assert path in str(refused.value)
            store.storage.write_bytes(path, before)
            count += 1
        path = f"{ref}/{MANIFEST}"
        before = store.storage.read_bytes(path)
        # A byte that JSON needs: any other that is changed names another file, hash, key or time.
        store.storage.write_bytes(path, before.replace(b'"sha256"', b'"shA256"', 1))
        with pytest.raises(IntegrityError, match=f"{ref}/{MANIFEST}"):
            fresh().local(ref)
        store.storage.write_bytes(path, before)
        assert verify_version(store, ref).damages == ()
    return count


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_in_a_folder(real_store: ArtifactStore) -> None:
    assert {ref.kind for ref in versions(real_store)} == set(KINDS)
    assert check_every_file(real_store, lambda: ArtifactStore.open(real_store.storage.settings)) > 40


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_on_a_server(real_store: ArtifactStore, rclone_server: Any, tmp_path: Path) -> None:
    settings = rclone_server.settings(tmp_path / "cache")
    store = ArtifactStore.open(settings)
    for entry in real_store.storage.list():
        if entry.path.split("/")[0] in KINDS:
            store.storage.write_bytes(entry.path, real_store.storage.read_bytes(entry.path))
    caches = iter(range(10_000))

    def fresh() -> ArtifactStore:
        return ArtifactStore.open(settings.model_copy(update={"cache_dir": str(tmp_path / f"cache-{next(caches)}")}))

    assert check_every_file(store, fresh) > 40
