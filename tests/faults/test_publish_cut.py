"""A publish that is broken off at every request, in every way: readers see the old version or the new one, never a mix."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.leases import renewal
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.storage import objects
from ts4s_core.artifacts.storage import s3_parts as s3_pieces
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import TEMPORARY, ArtifactRef
from ts4s_core.errors import Ts4sError
from ts4s_core.retries import Backoff

KEY = "1a2b3c4d" + "0" * 56
ACTIONS = ("cut before", "cut body", "cut answer", "half answer", "500", "SlowDown")
SMALL = [(action, False) for action in ACTIONS]
# Just above what goes up in one piece.
LARGE_BYTES = 17 * 2**20


@pytest.fixture(params=["moto_server", "rclone_server"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempts: what breaks stays broken."""
    monkeypatch.setattr(objects, "ATTEMPTS_PER_CALL", 1)
    monkeypatch.setattr(s3_pieces, "ATTEMPTS", 1)
    monkeypatch.setattr(s3_pieces, "BODIES", Backoff(tries=1, first_s=0.0))
    monkeypatch.setattr(renewal, "GIVING_BACK", Backoff(tries=1, first_s=0.0))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)


def publish(store: ArtifactStore, name: str, mark: bytes, large: Path | None = None) -> ArtifactRef:
    """A version of two files and its promotion."""
    with store.begin("trained", name, KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("a.json", mark)
        writer.add_bytes("z/model.safetensors", mark) if large is None else writer.add_file(large, "z/model.safetensors")
        writer.seal()
    Registry(store).decide(name, to=writer.ref.version, why=mark.decode(), who="test")
    return writer.ref


def seen_by_a_reader(store: ArtifactStore, name: str) -> bytes:
    """What the champion says it is, its files read and verified; everything else that is visible is whole too."""
    champion = Registry(store).resolve(f"{name}@champion")
    folder = store.local(champion)
    mark = (folder / "a.json").read_bytes()
    if (folder / "z/model.safetensors").stat().st_size < LARGE_BYTES:
        assert (folder / "z/model.safetensors").read_bytes() == mark
    assert [damage for row in verify(store, name) for damage in row.damages] == []
    return mark


class Ground:
    """A bucket, seen directly and through a front that breaks things."""

    def __init__(self, server: Any, front: Any, folder: Path, *, large: bool) -> None:
        self._settings = server.settings(folder / "cache")
        self._front = front
        self._cases = 0
        self.large: Path | None = None
        if large:
            self.large = folder / "large.safetensors"
            self.large.write_bytes(os.urandom(LARGE_BYTES))
        self.reader = ArtifactStore.open(self._settings)
        self.writer = self.opened()

    def opened(self) -> ArtifactStore:
        """A store through the front that has asked the server nothing yet."""
        return ArtifactStore.open(self._settings.model_copy(update={"endpoint_url": self._front.url}))

    def requests(self) -> int:
        """Requests of one undisturbed publish."""
        assert self.writer.storage.conditional_writes in (True, False)
        self._front.reset()
        publish(self.writer, "count", b"0", self.large)
        return len(self._front.seen)

    def broken_for_good(self, *, at: int, action: str, writer: ArtifactStore | None = None) -> bool:
        """Publish, breaking off at a request and all that follow; the state that is left is looked at and worked on."""
        name = self._name()
        publish(self.reader, name, b"old")
        self._front.reset(lambda request: "pass" if request.number < at else action if request.number == at else "cut before")
        try:
            publish(writer or self.writer, name, b"new", self.large)
            done = True
        except Ts4sError:
            done = False
        self._front.reset()
        assert seen_by_a_reader(self.reader, name) in ((b"new",) if done else (b"old", b"new"))
        following = publish(self.reader, name, b"next")
        assert seen_by_a_reader(self.reader, name) == b"next"
        assert Registry(self.reader).alias(name) == following.version
        entries = Registry(self.reader).entries(name)
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        self._forget(name)
        return done

    def broken_once(self, *, at: int, action: str) -> None:
        """Publish with one broken request: it is repeated, and nobody notices."""
        name = self._name()
        self._front.reset(lambda request: action if request.number == at else "pass")
        ref = publish(self.writer, name, b"new", self.large)
        self._front.reset()
        assert seen_by_a_reader(self.reader, name) == b"new"
        assert [entry.to for entry in Registry(self.reader).entries(name)] == [ref.version]
        left = self.reader.storage.list("", temporary=True)
        assert [entry.path for entry in left if TEMPORARY in entry.path or entry.path.startswith("leases/")] == []
        self._forget(name)

    def _name(self) -> str:
        self._cases += 1
        return f"case-{self._cases}"

    def _forget(self, name: str) -> None:
        for kind in ("trained", "registry"):
            self.reader.storage.delete_tree(f"{kind}/{name}")


@pytest.mark.usefixtures("impatient")
def test_short_form_answers_lost_for_good(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    ground = Ground(moto_server, fronts(moto_server.url), tmp_path, large=False)
    count = ground.requests()
    done = [ground.broken_for_good(at=number, action="cut answer") for number in (0, 2, count - 4, count - 2, count)]
    assert done[-1] is True
    assert done[0] is False


def test_short_form_one_refusal_is_mended(moto_server: Any, fronts: Callable[[str], Any], tmp_path: Path) -> None:
    ground = Ground(moto_server, fronts(moto_server.url), tmp_path, large=False)
    for number, action in ((3, "SlowDown"), (5, "cut answer")):
        ground.broken_once(at=number, action=action)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("action", "large"), [*((action, False) for action in ACTIONS), ("cut body", True), ("cut answer", True)]
)
def test_every_request_broken_for_good(
    server: Any, fronts: Callable[[str], Any], tmp_path: Path, action: str, large: bool
) -> None:
    ground = Ground(server, fronts(server.url), tmp_path, large=large)
    count = ground.requests()
    assert count > 10
    done = [ground.broken_for_good(at=number, action=action) for number in range(count)]
    assert not any(done[: count // 2])
    for number in (0, 1):  # where the server is still to be asked what it can do
        assert not ground.broken_for_good(at=number, action=action, writer=ground.opened())


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(("action", "large"), [*SMALL, ("half answer", True)])
def test_every_request_broken_once(server: Any, fronts: Callable[[str], Any], tmp_path: Path, action: str, large: bool) -> None:
    ground = Ground(server, fronts(server.url), tmp_path, large=large)
    for number in range(ground.requests()):
        ground.broken_once(at=number, action=action)
