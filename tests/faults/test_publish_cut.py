"""A publish that is broken off at every request, in every way: readers see the old version or the new one, never a mix."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts import lease, objects
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.verify import verify
from ts4s_core.errors import Ts4sError

KEY = "1a2b3c4d" + "0" * 56
ACTIONS = ("cut before", "cut body", "cut answer", "half answer", "500", "SlowDown")
# Just above what goes up in one piece.
LARGE_BYTES = 17 * 2**20


@pytest.fixture(params=["moto_server", "rclone_server"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempts: what breaks stays broken."""
    monkeypatch.setattr(objects, "ATTEMPTS_PER_CALL", 1)
    monkeypatch.setattr(lease, "GIVE_BACK_PAUSES_S", ())
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)


def publish(store: ArtifactStore, mark: bytes, large: Path | None = None) -> ArtifactRef:
    """A version of two files and its promotion."""
    with store.begin("trained", "demo", KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("a.json", mark)
        writer.add_bytes("z/model.safetensors", mark) if large is None else writer.add_file(large, "z/model.safetensors")
        writer.seal()
    Registry(store).decide("demo", to=writer.ref.version, why=mark.decode(), who="test")
    return writer.ref


def seen_by_a_reader(store: ArtifactStore) -> bytes:
    """What the champion says it is, its files read and verified; everything else that is visible is whole too."""
    champion = Registry(store).resolve("demo@champion")
    folder = store.local(champion)
    mark = (folder / "a.json").read_bytes()
    if (folder / "z/model.safetensors").stat().st_size < LARGE_BYTES:
        assert (folder / "z/model.safetensors").read_bytes() == mark
    assert [damage for row in verify(store) for damage in row.damages] == []
    return mark


def requests_of_a_publish(front: Any, settings: Any, large: Path | None) -> int:
    front.reset()
    publish(ArtifactStore.open(settings), b"0", large)
    return len(front.seen)


def settings_of(server: Any, front: Any, cache: Path) -> tuple[Any, Any]:
    """A new bucket, seen directly and through the front."""
    direct = server.settings(cache)
    return direct, direct.model_copy(update={"endpoint_url": front.url})


def broken_for_good(server: Any, front: Any, cache: Path, *, at: int, action: str, large: Path | None) -> bool:
    """Publish, breaking off at a request and all that follow; the state that is left is looked at and worked on."""
    direct, through = settings_of(server, front, cache)
    reader = ArtifactStore.open(direct)
    publish(reader, b"old")
    front.reset(lambda request: "pass" if request.number < at else action if request.number == at else "cut before")
    try:
        publish(ArtifactStore.open(through), b"new", large)
        done = True
    except Ts4sError:
        done = False
    front.reset()
    assert seen_by_a_reader(reader) in ((b"new",) if done else (b"old", b"new"))
    following = publish(reader, b"next")
    assert seen_by_a_reader(reader) == b"next"
    assert Registry(reader).alias("demo") == following.version
    entries = Registry(reader).entries("demo")
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    return done


def broken_once(server: Any, front: Any, cache: Path, *, at: int, action: str, large: Path | None) -> None:
    """Publish with one broken request: it is repeated, and nobody notices."""
    direct, through = settings_of(server, front, cache)
    front.reset(lambda request: action if request.number == at else "pass")
    ref = publish(ArtifactStore.open(through), b"new", large)
    front.reset()
    reader = ArtifactStore.open(direct)
    assert seen_by_a_reader(reader) == b"new"
    assert [entry.to for entry in Registry(reader).entries("demo")] == [ref.version]
    assert reader.storage.list("", temporary=True) == reader.storage.list()


def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large.safetensors"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


@pytest.mark.usefixtures("impatient")
def test_short_form_answers_lost_for_good(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    front = fronts(moto_server.url)
    count = requests_of_a_publish(front, settings_of(moto_server, front, tmp_path / "cache")[1], None)
    case = functools.partial(broken_for_good, moto_server, front, tmp_path / "cache", action="cut answer", large=None)
    done = [case(at=number) for number in (0, count - 4, count - 2, count)]
    assert done[-1] is True
    assert done[0] is False


def test_short_form_one_refusal_is_mended(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    front = fronts(moto_server.url)
    for number, action in ((3, "SlowDown"), (5, "cut answer")):
        broken_once(moto_server, front, tmp_path / "cache", at=number, action=action, large=None)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("action", ACTIONS)
def test_every_request_broken_for_good(server: Any, fronts: Callable[[str], Any], tmp_path: Path, action: str) -> None:
    front, large = fronts(server.url), large_file(tmp_path)
    count = requests_of_a_publish(front, settings_of(server, front, tmp_path / "cache")[1], large)
    assert count > 10
    case = functools.partial(broken_for_good, server, front, tmp_path / "cache", action=action, large=large)
    done = [case(at=number) for number in range(count)]
    assert not any(done[: count // 2])


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_request_broken_once(server: Any, fronts: Callable[[str], Any], tmp_path: Path, action: str) -> None:
    front, large = fronts(server.url), large_file(tmp_path)
    count = requests_of_a_publish(front, settings_of(server, front, tmp_path / "cache")[1], large)
    for number in range(count):
        broken_once(server, front, tmp_path / "cache", at=number, action=action, large=large)
