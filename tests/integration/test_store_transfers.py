"""Large files between a store and this host, over a connection that breaks: progress, resumption, back-off, no leftovers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.storage import objects
from ts4s_core.artifacts.storage import s3_parts as s3_pieces
from ts4s_core.artifacts.storage.transfer import PARALLEL, RANGE_BYTES
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import StoreError
from ts4s_core.retries import Backoff
from ts4s_core.training.job import storage_to_wire

KEY = "1a2b3c4d" + "0" * 56
LARGE = "model.safetensors"
# Five ranges and a bit.
LARGE_BYTES = 5 * RANGE_BYTES + 12_345
READER = """
import json, sys
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.settings import StorageSettings
store = ArtifactStore.open(StorageSettings.model_validate(json.loads(sys.stdin.readline())))
print((store.local(ArtifactRef.parse(sys.argv[1])) / "model.safetensors").stat().st_size)
"""


@pytest.fixture
def front(rclone_server: Any, fronts: Callable[[str], Any]) -> Any:
    return fronts(rclone_server.url)


@pytest.fixture
def direct(rclone_server: Any, tmp_path: Path) -> ArtifactStore:
    """The store without the front between."""
    return ArtifactStore.open(rclone_server.settings(tmp_path / "cache"))


@pytest.fixture
def through(direct: ArtifactStore, front: Any) -> Callable[..., ArtifactStore]:
    """Opens the same store through the front."""
    settings = direct.storage.settings.model_copy(update={"endpoint_url": front.url})
    return lambda **options: ArtifactStore.open(settings, **options)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempts: what breaks stays broken."""
    monkeypatch.setattr(objects, "ATTEMPTS_PER_CALL", 1)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setattr(s3_pieces, "ATTEMPTS", 1)
    monkeypatch.setattr(s3_pieces, "BODIES", Backoff(tries=1, first_s=0.0))


def publish(store: ArtifactStore, tmp_path: Path) -> ArtifactRef:
    local = tmp_path / "large.safetensors"
    local.write_bytes(os.urandom(LARGE_BYTES))
    with store.begin("model", "large", KEY, settings={}, upstream={}) as writer:
        writer.add_file(local, LARGE)
        writer.seal()
    return writer.ref


def gets(front: Any) -> int:
    """Requests for a piece of the large file."""
    return sum(request.method == "GET" and request.target.endswith(LARGE) for request in front.seen)


def test_progress_of_both_ways_is_told(through: Callable[..., ArtifactStore], tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    store = through(progress=lambda stage, fields: events.append((stage, dict(fields))))
    ref = publish(store, tmp_path)
    store.local(ref)
    for stage in ("upload", "download"):
        told = [fields for name, fields in events if name == stage]
        ranges = [fields["range"] for fields in told]
        assert ranges == sorted(ranges)
        assert (ranges[-1], told[-1]["ranges"]) == (6, 6)
        assert len(told) >= 6
        assert told[-1]["file"] == f"{ref}/{LARGE}"
        assert told[-1]["mib_per_s"] > 0


@pytest.mark.usefixtures("impatient")
def test_download_goes_on_where_it_stopped(
    direct: ArtifactStore, through: Callable[..., ArtifactStore], front: Any, tmp_path: Path
) -> None:
    ref = publish(direct, tmp_path)

    def cut_the_fourth(request: Any) -> str:
        late = request.method == "GET" and request.target.endswith(LARGE) and request.first_byte >= 3 * RANGE_BYTES
        return "half answer" if late else "pass"

    front.cut_at_byte = 100_000
    front.reset(cut_the_fourth)
    with pytest.raises(StoreError, match="Store cannot read"):
        through().local(ref)
    half = next(path for path in (tmp_path / "cache").rglob("arriving/*") if path.suffix != ".lock")
    assert half.stat().st_size == 3 * RANGE_BYTES
    front.reset()
    folder = through().local(ref)
    assert (folder / LARGE).read_bytes() == (tmp_path / "large.safetensors").read_bytes()
    assert gets(front) == 6 - 3
    assert not half.exists()


def test_an_answer_that_breaks_off_is_asked_for_again(
    direct: ArtifactStore, through: Callable[..., ArtifactStore], front: Any, tmp_path: Path
) -> None:
    ref = publish(direct, tmp_path)
    asked = 0

    def break_the_first_six(request: Any) -> str:
        nonlocal asked
        if request.method != "GET" or not request.target.endswith(LARGE):
            return "pass"
        asked += 1
        return "half answer" if asked <= 6 else "pass"

    front.cut_at_byte = 10_000  # the last piece has not many more
    front.reset(break_the_first_six)
    assert (through().local(ref) / LARGE).read_bytes() == (tmp_path / "large.safetensors").read_bytes()
    assert gets(front) == 12


def test_processes_of_a_host_share_one_download(
    direct: ArtifactStore, through: Callable[..., ArtifactStore], front: Any, tmp_path: Path
) -> None:
    ref = publish(direct, tmp_path)
    front.reset()
    wire = json.dumps(storage_to_wire(through().storage.settings))
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(ref)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [reader.communicate(wire + "\n", timeout=120)[0] for reader in readers] == [f"{LARGE_BYTES}\n"] * 3
    assert gets(front) == 6


@pytest.mark.long
def test_throttling_and_lost_connections_are_waited_out(
    through: Callable[..., ArtifactStore], front: Any, tmp_path: Path
) -> None:
    actions = ["pass", "SlowDown", "pass", "500", "pass", "cut answer", "pass", "cut before"]
    front.reset(lambda request: actions[request.number % len(actions)])
    ref = publish(through(), tmp_path)
    assert (through().local(ref) / LARGE).read_bytes() == (tmp_path / "large.safetensors").read_bytes()
    refused = [request.number for request in front.seen if actions[request.number % len(actions)] != "pass"]
    assert len(refused) > 8


def part_uploads(request: Any) -> bool:
    return request.method == "PUT" and "partNumber=" in request.target


@pytest.mark.usefixtures("impatient")
def test_a_failed_upload_is_aborted(
    direct: ArtifactStore, through: Callable[..., ArtifactStore], front: Any, tmp_path: Path
) -> None:
    front.reset(lambda request: "500" if part_uploads(request) and "partNumber=4" in request.target else "pass")
    with pytest.raises(StoreError, match="Store cannot write"):
        publish(through(), tmp_path)
    assert any(request.method == "DELETE" and "uploadId=" in request.target for request in front.seen)
    assert direct.storage.unfinished_uploads() == []
    assert direct.storage.list("", temporary=True) == []


@pytest.mark.usefixtures("impatient")
def test_an_upload_that_nobody_could_abort_goes_with_gc(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    direct, front = ArtifactStore.open(moto_server.settings(tmp_path / "cache")), fronts(moto_server.url)
    settings = direct.storage.settings.model_copy(update={"endpoint_url": front.url})
    lost = False

    def from_the_second_part_on(request: Any) -> str:
        nonlocal lost
        lost = lost or (part_uploads(request) and re.search(r"partNumber=2\b", request.target) is not None)
        return "cut before" if lost else "pass"

    front.reset(from_the_second_part_on)
    with pytest.raises(StoreError):
        publish(ArtifactStore.open(settings), tmp_path)
    (left,) = direct.storage.unfinished_uploads()
    assert left.path.endswith(LARGE)
    assert collect(direct, dry_run=False) == []
    later = time.time() + 48 * 3600
    planned = collect(direct, dry_run=True, now=later)
    assert [(item.path, item.reason) for item in planned] == [
        (left.path.rpartition("/")[0], "half-written"),
        (left.path, "unfinished upload"),
    ]
    assert direct.storage.unfinished_uploads() == [left]
    assert collect(direct, dry_run=False, now=later) == planned
    assert direct.storage.unfinished_uploads() == []
    assert direct.storage.list("", temporary=True) == []


def test_a_version_has_one_writer(direct: ArtifactStore, moto_server: Any, tmp_path: Path) -> None:
    for store in (direct, ArtifactStore.open(moto_server.settings(tmp_path / "cache"))):
        folder = "model/demo/20261121T041500.123456Z-1a2b3c4d"
        other = ArtifactStore.open(store.storage.settings)
        assert store.storage.reserve(folder, b"first")
        assert not other.storage.reserve(folder, b"second")
        assert other.storage.reservation(folder) == b"first"
        assert store.versions("model", "demo") == []
        store.storage.publish(folder, b"{}", check=list)
        assert not other.storage.reserve(folder, b"third")
        assert other.storage.reservation(folder) is None
        assert [entry.path for entry in store.storage.list("", temporary=True)] == [f"{folder}/manifest.json"]


def test_pieces_in_flight_are_few() -> None:
    """What bounds the memory of a transfer, whatever the file's size."""
    assert PARALLEL * RANGE_BYTES <= 64 * 2**20
