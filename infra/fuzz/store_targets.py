"""What the store reads: manifests, registry entries, leases, the Parquet files of a dataset."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mutations import by_json, by_parquet
from target import Target

from ts4s_core.artifacts.leases.lease import Limits, claims, live_claims
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.staging import Reservation
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.manifest import Manifest, RowGroup
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.formats.parquet_footer import read_groups
from ts4s_core.data.schema import side_schema
from ts4s_core.errors import Ts4sError
from ts4s_core.settings import StorageSettings

VERSION = "20261121T041500.123456Z-1a2b3c4d"
_KEY = "1a2b3c4d" + "0" * 56
_TOKEN = "00000000000000000001-" + "a" * 32


def _manifest(kind: str) -> dict[str, object]:
    groups = [{"rows": 2, "offset": 0, "size": 6, "sha256": "cd" * 32}, {"rows": 0, "offset": 6, "size": 4, "sha256": "cd" * 32}]
    files = [
        {"path": "card.json", "size": 3, "sha256": "ab" * 32, "identity": True, "row_groups": None},
        {"path": "train/00000.parquet", "size": 10, "sha256": "ef" * 32, "identity": True, "row_groups": groups},
    ]
    facts = {"labels": ["a", "b"], "fingerprint": "f", "max_length": 8, "pad_id": 0, "task": "classification"}
    return {
        "format": 1,
        "kind": kind,
        "name": "demo",
        "version": VERSION,
        "key": _KEY,
        "created": "2026-11-21T04:15:00.123456Z",
        "settings": {"model": {"classes": 2}},
        "upstream": {"dataset": f"dataset/demo/{VERSION}"},
        "code": "0.1.0",
        "libraries": {"torch": "2.13.0"},
        "instruction_set": "avx2",
        "files": files,
        "facts": facts,
        "upstream_sha256": {"dataset": "ab" * 32},
    }


_ENTRY = {
    "number": 1,
    "name": "demo",
    "alias": "champion",
    "action": "promote",
    "to": VERSION,
    "why": "first",
    "who": "a@b",
    "when": "2026-11-21T04:15:00Z",
    "metrics": {"accuracy": 0.5},
    "from": None,
}
_OLD_CLAIM = {"token": _TOKEN, "host": "h/boot", "pid": 1, "started": 1.0, "since": 1.0, "renewed": 1.0, "number": 1}
_CLAIM = {
    "token": _TOKEN,
    "host": "h",
    "boot": "b",
    "pid_namespace": "pid:[1]",
    "doing": "train",
    "pid": 1,
    "start_ticks": 1,
    "since": 1.0,
    "number": 1,
}
_RESERVATION = {"token": _TOKEN, "fences": [{"name": "demo", "token": _TOKEN, "number": 1}]}


def _small_files() -> list[bytes]:
    """The first byte says which file the rest is."""
    records = [_manifest("trained"), _manifest("dataset"), _ENTRY, _CLAIM, _OLD_CLAIM, _RESERVATION]
    return [bytes([kind]) + json.dumps(record).encode() for kind, record in enumerate(records)]


def _read_small_file(data: bytes, folder: Path) -> None:
    kind, data = data[0] % 6 if data else 0, data[1:]
    shutil.rmtree(folder / "store", ignore_errors=True)
    store = ArtifactStore.open(StorageSettings(uri=str(folder / "store")))
    if kind < 2:
        _read_manifest(store, ArtifactRef(("trained", "dataset")[kind], "demo", VERSION), data)
    elif kind == 2:
        _put(folder, f"trained/demo/{VERSION}/manifest.json", json.dumps(_manifest("trained")).encode())
        _put(folder, "registry/demo/00000001.json", data)
        registry = Registry(store)
        for question in (registry.entries, registry.aliases, registry.alias, registry.needed, registry.resolve):
            _asked(question, "demo")
        _asked(registry.resolve, "demo@champion")
        json.dumps([vars(entry) for entry in registry.entries("demo")])
    elif kind == 5:
        reservation = Reservation.from_json(data, "a version")
        assert Reservation.from_json(reservation.to_json(), "a version") == reservation
        assert all(store.storage.full(fence.path).startswith(store.storage.full("leases/")) for fence in reservation.fences)
    else:
        store.storage.limits = Limits(expires_s=0.0, poll_s=0.0)
        _put(folder, f"leases/demo/{_TOKEN}.json", data)
        living = live_claims(store.storage)
        found = claims(store.storage, "demo")
        assert len(found) <= 1
        assert sorted((claim.number, claim.token) for claim in found) is not None
        f"{found} {living} {[str(claim) for claim in found]} {max([0, *(claim.number for claim in found)]) + 1}"


def _read_manifest(store: ArtifactStore, ref: ArtifactRef, data: bytes) -> None:
    assert store.storage.folder is not None
    path = store.storage.folder / str(ref) / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    _asked(lambda _: list(verify(store)), "")
    _asked(lambda _: store.find(ref.kind, ref.name, _KEY), "")
    manifest = Manifest.from_json(data, ref)
    assert Manifest.from_json(manifest.to_json(), ref) == manifest
    f"{manifest.content_sha256} {sorted(manifest.upstream.items())}"
    for entry in manifest.files:
        inside = (store.storage.folder / str(ref) / entry.path).resolve()
        assert inside.is_relative_to(store.storage.folder.resolve()), "a file outside the version's folder"
    _asked(lambda _: store.local(ref), "")
    if ref.kind == "dataset":
        with Dataset.open(store, ref) as dataset:
            dataset.rows("train")
            list(dataset.read("train"))


def _asked(question: Callable[[str], object], about: str) -> None:
    """An error of ours is an answer to one question; the others are asked all the same."""
    with contextlib.suppress(Ts4sError):
        question(about)


def _put(folder: Path, path: str, data: bytes) -> None:
    (folder / "store" / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / "store" / path).write_bytes(data)


def _pieces() -> list[bytes]:
    rows = 40
    columns = {
        "id": [bytes([at]) * 16 for at in range(rows)],
        "label": [at % 2 for at in range(rows)],
        "input_ids": [[1, 2, 3] for _ in range(rows)],
        "length": [3] * rows,
        "text": [f"text {at}" for at in range(rows)],
    }
    files = []
    for compression in ("zstd", "none"):
        file = io.BytesIO()
        table = pa.table(columns, schema=side_schema(multi_label=False))
        pq.write_table(table, file, compression=compression, row_group_size=20)
        files.append(file.getvalue())
    return files


def _read_pieces(data: bytes, folder: Path) -> None:
    """A Parquet file that somebody planted with a manifest that fits it: hashes do not help."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    path = folder / "00000.parquet"
    path.write_bytes(data)
    store = ArtifactStore.open(StorageSettings(uri=str(folder / "store")))
    try:
        planted = read_groups(io.BytesIO(data))
    except ValueError:
        return
    # As row_groups_of would have it, which is for files of ours alone and asks PyArrow; bytes between go to the last group.
    ends = list(itertools.accumulate((sum(chunk.folded for chunk in group.chunks) for group in planted), initial=4))[1:-1]
    footer = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    places = [0, *ends, footer, len(data)] if planted else [0, len(data)]
    if places != sorted(places):
        return
    groups = [
        RowGroup(rows, start, end - start, hashlib.sha256(data[start:end]).hexdigest())
        for rows, (start, end) in zip([*(max(0, group.rows) for group in planted), 0], itertools.pairwise(places), strict=True)
    ]
    with store.begin("dataset", "demo", _KEY, settings={}, upstream={}) as writer:
        writer.add_file(path, "train/00000.parquet", row_groups=groups)
        writer.facts.update(labels=["a", "b"], fingerprint="f", max_length=8, pad_id=0, task="classification")
        writer.seal()
    with Dataset.open(store, writer.ref) as dataset:
        list(dataset.read("train"))


TARGETS = {
    "manifest": Target(_small_files, _read_small_file, change=by_json),
    "dataset-parquet": Target(_pieces, _read_pieces, change=by_parquet),
}
