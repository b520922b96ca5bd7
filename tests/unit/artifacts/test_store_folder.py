"""The store in a folder: versions appear whole, never change, and are verified on read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ts4s_core.artifacts.pieces import row_groups_of
from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter, stage_file
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.artifacts.versions.manifest import FileEntry
from ts4s_core.artifacts.versions.refs import TEMPORARY, ArtifactRef
from ts4s_core.errors import ConflictError, InputError, IntegrityError, NotFoundError, StoreError
from ts4s_core.settings import StorageSettings

KEY = "1a2b3c4d" + "0" * 56


def begin(store: ArtifactStore, name: str = "demo", key: str = KEY) -> ArtifactWriter:
    return store.begin("model", name, key, settings={"classes": 3}, upstream={})


def publish(store: ArtifactStore, name: str = "demo", data: bytes = b"weights") -> ArtifactRef:
    with begin(store, name) as writer:
        writer.add_bytes("a/model.safetensors", data)
        writer.add_json("notes.json", {"a": 1}, identity=False)
        writer.facts["rows"] = 7
        writer.seal()
    return writer.ref


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_opening_and_looking_write_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.newest("model", "demo") is None
    assert store.find("model", "demo", KEY) is None
    assert store.versions("model", "demo") == []
    assert store.storage.list() == []
    with pytest.raises(NotFoundError, match="has no versions"):
        store.manifest(ArtifactRef("model", "demo", "20261121T041500.123456Z-1a2b3c4d"))
    assert list(tmp_path.iterdir()) == []


def test_sealed_version_has_manifest_and_files(store: ArtifactStore, tmp_path: Path) -> None:
    ref = publish(store)
    manifest = store.manifest(ref)
    assert [(entry.path, entry.size, entry.identity) for entry in manifest.files] == [
        ("a/model.safetensors", 7, True),
        ("notes.json", 12, False),
    ]
    assert manifest.facts == {"rows": 7}
    assert manifest.key == KEY
    assert manifest.created == f"{ref.version[:4]}-{ref.version[4:6]}-{ref.version[6:8]}T" + (
        f"{ref.version[9:11]}:{ref.version[11:13]}:{ref.version[13:22]}Z"
    )
    assert store.local(ref).joinpath("a/model.safetensors").read_bytes() == b"weights"
    assert below(tmp_path / "store") == [f"{ref}/a/model.safetensors", f"{ref}/manifest.json", f"{ref}/notes.json"]
    assert store.find("model", "demo", KEY) == store.newest("model", "demo") == ref
    assert store.find("model", "demo", "1a2b3c4d" + "1" * 56) is None


def test_content_hash_leaves_out_what_is_no_identity(store: ArtifactStore) -> None:
    first, second, other = publish(store), publish(store), publish(store, data=b"Weights")
    assert first != second
    assert store.manifest(first).content_sha256 == store.manifest(second).content_sha256
    assert store.manifest(first).content_sha256 != store.manifest(other).content_sha256


def test_version_is_invisible_until_it_is_sealed(store: ArtifactStore, tmp_path: Path) -> None:
    with begin(store) as writer:
        writer.add_bytes("model.safetensors", b"1")
        assert store.versions("model", "demo") == []
        assert store.storage.list() == []
        assert [path for path in below(tmp_path / "store") if TEMPORARY not in path] == []
        writer.seal()
    assert store.versions("model", "demo") == [writer.ref]


def test_what_killed_writers_of_parts_left_does_not_come_along(store: ArtifactStore, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"12")
    with begin(store) as writer:
        writer.register(stage_file(store.storage, writer.ref, "a/model.safetensors", part))
        staged = tmp_path / "store" / store.storage.stage(str(writer.ref))
        for folder in (staged, staged / "a"):
            folder.mkdir(exist_ok=True)
            (folder / f"{TEMPORARY}{'0' * 32}").write_bytes(b"1")
        writer.seal()
    assert below(tmp_path / "store") == [f"{writer.ref}/a/model.safetensors", f"{writer.ref}/manifest.json"]


def fail_in_the_middle(store: ArtifactStore, *, keep: bool) -> None:
    with begin(store) as writer:
        writer.keep = keep
        writer.add_bytes("model.safetensors", b"1")
        raise RuntimeError


def test_failure_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_in_the_middle(store, keep=False)
    assert list((tmp_path / "store").iterdir()) == []


def test_kept_failure_stays_until_gc(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_in_the_middle(store, keep=True)
    reservation, left = below(tmp_path / "store")
    assert left.startswith(f"model/demo/{TEMPORARY}")
    assert left.endswith("/model.safetensors")
    assert reservation == left.replace("model.safetensors", f"{TEMPORARY}writer")


def test_forgotten_seal_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"without seal\(\)"), begin(store) as writer:
        writer.add_bytes("model.safetensors", b"1")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a//x.json",
        "x\n.json",
        "a\\x.json",
        "",
        "x" * 500 + ".json",
        "a/" + "ñ" * 98 + ".json",
        f"{TEMPORARY}x.json",
    ],
)
def test_foreign_paths_are_refused(store: ArtifactStore, path: str) -> None:
    with begin(store) as writer:
        with pytest.raises(InputError, match="File path"):
            writer.add_bytes(path, b"1")
        writer.seal()


@pytest.mark.parametrize("path", ["model.pkl", "weights.pt", "pytorch_model.bin", "run.py", "manifest.json"])
def test_only_harmless_formats_are_kept(store: ArtifactStore, path: str) -> None:
    with begin(store) as writer:
        with pytest.raises(InputError, match="is refused"):
            writer.add_bytes(path, b"1")
        writer.seal()


def test_path_is_written_once(store: ArtifactStore) -> None:
    with begin(store) as writer:
        writer.add_bytes("a.json", b"1")
        with pytest.raises(InputError, match="written already"):
            writer.add_bytes("a.json", b"2")
        writer.seal()
    with pytest.raises(StoreError, match="is sealed"):
        writer.add_bytes("b.json", b"1")


def test_parts_from_other_processes(store: ArtifactStore, tmp_path: Path) -> None:
    local = tmp_path / "part.csv"
    local.write_bytes(b"a,b\n")
    executor = ArtifactStore.open(store.storage.settings)
    with begin(store) as writer:
        stage_file(executor.storage, writer.ref, "part.csv", local)
        entry = stage_file(executor.storage, writer.ref, "part.csv", local)  # a repeated attempt
        writer.register(entry)
        writer.seal()
    assert entry.size == 4
    assert store.local_file(writer.ref, "part.csv").read_bytes() == b"a,b\n"
    with pytest.raises(ConflictError, match="too late"):
        stage_file(executor.storage, writer.ref, "part.csv", local)


def test_part_of_an_abandoned_version_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    local = tmp_path / "part.csv"
    local.write_bytes(b"a,b\n")
    writer = begin(store)
    writer.abandon()
    with pytest.raises(ConflictError, match="given up"):
        stage_file(store.storage, writer.ref, "part.csv", local)
    assert below(tmp_path / "store") == []


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damage_is_refused_by_name(store: ArtifactStore, damage: str) -> None:
    ref = publish(store)
    path = store.local(ref) / "a/model.safetensors"
    if damage == "flip":
        path.write_bytes(b"weighty")
    elif damage == "cut":
        path.write_bytes(b"weig")
    else:
        path.unlink()
    fresh = ArtifactStore.open(store.storage.settings)
    with pytest.raises(IntegrityError, match=r"a/model.safetensors is"):
        fresh.local(ref)
    with pytest.raises(IntegrityError, match=r"a/model.safetensors is"):
        fresh.local_file(ref, "a/model.safetensors")


def test_planted_file_is_refused(store: ArtifactStore) -> None:
    ref = publish(store)
    (store.local(ref) / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(IntegrityError, match=r"does not list: pytorch_model.bin"):
        store.local(ref)


def manifest_with(store: ArtifactStore, ref: ArtifactRef, **changes: object) -> None:
    path = store.local(ref) / "manifest.json"
    record = json.loads(path.read_bytes())
    record["files"][0].update(changes)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "../../x.json"}, "File path '../../x.json' is refused"),
        ({"path": "/etc/passwd"}, "is refused"),
        ({"path": "model.pkl"}, "is refused"),
        ({"size": -1}, "size -1"),
        ({"size": True}, "size True"),
        ({"size": "7"}, "size of type str"),
        ({"sha256": "0"}, "sha256 '0'"),
        ({"row_groups": [{"rows": 1, "offset": 5, "size": 3, "sha256": "0" * 64}]}, "beyond the end"),
        ({"path": "notes.json"}, "listed twice"),
    ],
)
def test_hostile_manifest_is_refused(store: ArtifactStore, changes: dict[str, object], said: str) -> None:
    ref = publish(store)
    manifest_with(store, ref, **changes)
    with pytest.raises(IntegrityError, match=r"manifest.json is damaged") as refused:
        store.manifest(ref)
    assert said in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 2}', b'{"format": 1}'])
def test_broken_manifest_is_refused(store: ArtifactStore, data: bytes) -> None:
    ref = publish(store)
    (store.local(ref) / "manifest.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"manifest.json is damaged"):
        store.manifest(ref)


def test_manifest_of_another_version_is_refused(store: ArtifactStore) -> None:
    first, second = publish(store), publish(store, "other")
    (store.local(first) / "manifest.json").write_bytes((store.local(second) / "manifest.json").read_bytes())
    with pytest.raises(IntegrityError, match="is not its version's"):
        store.manifest(first)


def test_parquet_is_streamed_in_verified_pieces(store: ArtifactStore, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": list(range(1000)),
            "text": [hashlib.sha512(bytes([number % 256])).hexdigest() * 4 + str(number) for number in range(1000)],
        }
    )
    local = tmp_path / "00000.parquet"
    pq.write_table(table, local, row_group_size=256, compression="none", use_dictionary=False)
    pieces = row_groups_of(local)
    assert [piece.rows for piece in pieces] == [256, 256, 256, 232, 0]
    assert sum(piece.size for piece in pieces) == local.stat().st_size
    with begin(store) as writer:
        writer.add_file(local, "train/00000.parquet", row_groups=pieces)
        writer.seal()
    with store.open_file(writer.ref, "train/00000.parquet") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(2).column("id").to_pylist() == list(range(512, 768))
        assert parquet.read().equals(table)
    stored = store.local(writer.ref) / "train/00000.parquet"
    data = bytearray(stored.read_bytes())
    data[pieces[1].offset + 10] ^= 1  # a piece that the footer's read-ahead does not touch
    stored.write_bytes(data)
    with store.open_file(writer.ref, "train/00000.parquet") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(0).num_rows == 256
        with pytest.raises(IntegrityError, match="damaged in row group 1"):
            parquet.read_row_group(1)


def test_file_without_pieces_is_verified_as_a_whole(store: ArtifactStore) -> None:
    ref = publish(store)
    with store.open_file(ref, "notes.json") as file:
        assert json.loads(file.read()) == {"a": 1}
    with pytest.raises(NotFoundError, match=r"has no file 'x.json'"):
        store.open_file(ref, "x.json")


def test_deleted_version_is_gone(store: ArtifactStore, tmp_path: Path) -> None:
    first, second = publish(store), publish(store)
    store.delete(first)
    assert store.versions("model", "demo") == [second]
    store.delete(second)
    assert list((tmp_path / "store").iterdir()) == []


def test_step_is_done_once(store: ArtifactStore) -> None:
    calls = []

    def build(writer: ArtifactWriter) -> None:
        calls.append(writer.ref)
        writer.add_json("a.json", 1)
        writer.facts["rows"] = 3

    def step(reuse: bool) -> StepResult:
        return run_step(store, kind="dataset", name="d", key=KEY, settings={}, upstream={}, reuse=reuse, build=build)

    first, second, third = step(True), step(True), step(False)
    assert (first.reused, second.reused, third.reused) == (False, True, False)
    assert second.ref == first.ref == calls[0]
    assert second.facts == {"rows": 3}
    assert third.ref == calls[1]
    assert StepResult.from_json(json.loads(json.dumps(first.to_json()))) == first


def test_entry_of_a_folder_keeps_its_tree(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "tokenizer"
    (source / "sub").mkdir(parents=True)
    (source / "sub/vocab.txt").write_text("a\n")
    (source / "tokenizer.json").write_text("{}")
    with begin(store) as writer:
        entries = writer.add_folder(source, "tokenizer")
        writer.seal()
    assert [entry.path for entry in entries] == ["tokenizer/sub/vocab.txt", "tokenizer/tokenizer.json"]
    assert isinstance(entries[0], FileEntry)


def test_relative_address_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore.open(StorageSettings(uri="artifacts"))
    assert store.storage.settings.uri == str(tmp_path / "artifacts")


def test_create_is_exclusive(store: ArtifactStore) -> None:
    store.storage.create("registry/demo/00000001.json", b"1")
    with pytest.raises(ConflictError, match="create-only"):
        store.storage.create("registry/demo/00000001.json", b"2")
    assert store.storage.read_bytes("registry/demo/00000001.json") == b"1"
    assert [entry.path for entry in store.storage.list("", temporary=True)] == ["registry/demo/00000001.json"]


def test_what_a_killed_run_left_half_written_goes(store: ArtifactStore) -> None:
    sealed = store.begin("trained", "demo", KEY, settings={}, upstream={})
    sealed.add_json("a.json", {})
    sealed.seal()
    for key, name in ((KEY, "demo"), ("ff" * 32, "demo"), (KEY, "other")):
        writer = store.begin("trained", name, key, settings={}, upstream={})
        if key == KEY:
            writer.add_json("a.json", {})
    assert store.storage.folder is not None
    # Killed after the manifest was written and before the folder got its name.
    complete = store.storage.folder / "trained" / "demo" / f"{TEMPORARY}20260101T000000.000000Z-01234567"
    shutil.copytree(store.storage.folder / str(sealed.ref), complete)
    assert len(discard_unsealed(store, "trained", "demo")) == 3
    assert discard_unsealed(store, "trained", "nobody") == []
    folders = sorted(path.name for path in (store.storage.folder / "trained" / "demo").iterdir())
    assert folders == [sealed.ref.version]
    assert len(list((store.storage.folder / "trained" / "other").iterdir())) == 1
