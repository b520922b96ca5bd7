"""What others do between a look and a write: every case is put exactly there, by hand, with the real operations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.leases.in_use import in_use
from ts4s_core.artifacts.leases.lease import IN_USE, Lease, Limits, claims
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.steps import run_step
from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter, stage_file
from ts4s_core.artifacts.upkeep.collect import collect
from ts4s_core.artifacts.upkeep.unsealed import discard_unsealed
from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import ConflictError, IntegrityError, StoreError
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.pipeline.publication import publish_decision
from ts4s_core.settings import StorageSettings

KEY = "1a2b3c4d" + "0" * 56


@pytest.fixture(params=["folder", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    uri = str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}/store"
    return ArtifactStore.open(StorageSettings(uri=uri, cache_dir=str(tmp_path / "cache")))


def publish(store: ArtifactStore, kind: str = "trained", **upstream: object) -> ArtifactRef:
    with store.begin(kind, "demo", KEY, settings={}, upstream=upstream) as writer:
        writer.add_bytes("model.safetensors", b"weights")
        writer.seal()
    return writer.ref


def before(target: Any, name: str, ending: str, act: Callable[[], object]) -> None:
    """Let something happen once, right before a method is called for a path that ends so."""
    real, left = getattr(target, name), [True]

    def method(path: str, *arguments: Any, **options: Any) -> Any:
        if left and path.endswith(ending):
            left.clear()
            act()
        return real(path, *arguments, **options)

    setattr(target, name, method)


def gc(store: ArtifactStore) -> list[str]:
    return [item.path for item in collect(store, dry_run=False, grace_s=0, keep_last=1, now=time.time() + 10)]


def damages(store: ArtifactStore) -> list[str]:
    return [damage.path for row in verify(store) for damage in row.damages]


def test_a_writer_whose_files_were_taken_away_seals_nothing(any_store: ArtifactStore) -> None:
    other = ArtifactStore.open(any_store.storage.settings)

    def build(writer: ArtifactWriter) -> None:
        writer.add_bytes("model.safetensors", b"weights")
        assert len(discard_unsealed(other, "trained", "demo")) == 1
        writer.add_bytes("metrics.json", b"{}")

    with pytest.raises((ConflictError, IntegrityError)):
        run_step(any_store, kind="trained", name="demo", key=KEY, settings={}, upstream={}, reuse=True, build=build)
    assert any_store.versions("trained", "demo") == []
    assert any_store.storage.list("", temporary=True) == []


def test_a_version_is_sealed_with_all_its_files_or_not(any_store: ArtifactStore) -> None:
    with any_store.begin("model", "demo", KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("a.json", b"12")
        writer.add_bytes("b.json", b"1")
        staged = any_store.storage.stage(str(writer.ref))
        any_store.storage.write_bytes(f"{staged}/a.json", b"1")
        any_store.storage.delete(f"{staged}/b.json")
        with pytest.raises(IntegrityError, match=r"a\.json \(expected 2 bytes, got 1\), b\.json \(expected 1 bytes, got none\)"):
            writer.seal()
        any_store.storage.write_bytes(f"{staged}/a.json", b"12")
        any_store.storage.write_bytes(f"{staged}/b.json", b"1")
        writer.seal()
    assert damages(any_store) == []


def test_a_part_that_comes_late_changes_nothing(any_store: ArtifactStore, tmp_path: Path) -> None:
    """An attempt that hung in its upload while the next one's part was sealed."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"late")
    second.write_bytes(b"in time")
    executor = ArtifactStore.open(any_store.storage.settings)
    with any_store.begin("dataset", "demo", KEY, settings={}, upstream={}) as writer:

        def seal() -> None:
            writer.register(stage_file(any_store.storage, writer.ref, "rows.csv", second))
            writer.seal()

        real = executor.storage.put_file

        def late(local: Path, path: str) -> tuple[int, str]:
            seal()
            return real(local, path)

        executor.storage.put_file = late  # type: ignore[method-assign]
        with pytest.raises(ConflictError, match="too late"):
            stage_file(executor.storage, writer.ref, "rows.csv", first)
    assert any_store.local_file(writer.ref, "rows.csv").read_bytes() == b"in time"
    assert damages(any_store) == []
    files = [f"{writer.ref}/manifest.json", f"{writer.ref}/rows.csv"]
    assert [entry.path for entry in any_store.storage.list("", temporary=True)] == files


def test_of_two_attempts_the_one_that_is_registered_counts(any_store: ArtifactStore, tmp_path: Path) -> None:
    entries = []
    with any_store.begin("dataset", "demo", KEY, settings={}, upstream={}) as writer:
        for text in (b"one", b"two", b"six"):
            (tmp_path / "part").write_bytes(text)
            entries.append(stage_file(any_store.storage, writer.ref, "rows.csv", tmp_path / "part"))
        writer.register(entries[1])
        writer.seal()
    assert any_store.local_file(writer.ref, "rows.csv").read_bytes() == b"two"


def test_a_link_whose_answer_was_lost_is_no_second_decision(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a network file system asks again, and is told that the file is there: it made it itself."""
    ref, real = publish(store), os.link

    def twice(source: Any, target: Any) -> None:
        real(source, target)
        if "registry" in str(target):
            real(source, target)

    assert store.storage.conditional_writes
    monkeypatch.setattr(store.storage._files, "_give_name", twice)
    Registry(store).decide("demo", to=ref.version, why="once")
    assert [entry.number for entry in Registry(store).entries("demo")] == [1]
    with pytest.raises(ConflictError):
        store.storage.create("registry/demo/00000001.json", b"{}")


def test_a_rename_whose_answer_was_lost_has_sealed_the_version(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def twice(source: Any, target: Any) -> None:
        real(source, target)
        real(source, target)

    with store.begin("model", "demo", KEY, settings={}, upstream={}) as writer:
        writer.add_bytes("a.json", b"1")
        monkeypatch.setattr(os, "rename", twice)
        writer.seal()
        monkeypatch.setattr(os, "rename", real)
    assert store.versions("model", "demo") == [writer.ref]
    assert damages(store) == []


def test_a_manifest_that_could_not_be_read_again_is_not_sealed(store: ArtifactStore) -> None:
    with store.begin("model", "demo", KEY, settings={}, upstream={}) as writer:
        writer.facts["history"] = "x" * (64 * 2**20)
        with pytest.raises(
            StoreError, match=r"manifest\.json would have 67,1\d\d,\d\d\d bytes for 0 files, expected at most 67,108"
        ):
            writer.seal()
        writer.facts.clear()
        writer.seal()
    assert store.manifest(writer.ref).facts == {}


def test_two_rollbacks_at_once_are_two_steps_back(any_store: ArtifactStore) -> None:
    refs = [publish(any_store) for _ in range(6)]
    registry = Registry(any_store)
    for ref in refs[:3]:
        registry.decide("demo", to=ref.version, why="better")
    second = Registry(ArtifactStore.open(any_store.storage.settings))
    before(any_store.storage, "create", "00000004.json", lambda: second.rollback("demo", why="the other one"))
    registry.rollback("demo", why="one of two")
    expected = [("promote", 0), ("promote", 1), ("promote", 2), ("rollback", 1), ("rollback", 0)]
    at = {ref.version: number for number, ref in enumerate(refs)}
    assert [(entry.action, at[str(entry.to)]) for entry in registry.entries("demo")] == expected
    assert registry.needed("demo") == {refs[0].version}
    assert str(refs[0]) not in gc(any_store)
    assert registry.resolve("demo") == refs[0]
    assert damages(any_store) == []


def test_the_gate_does_not_write_over_a_promotion_by_hand(any_store: ArtifactStore) -> None:
    first, second, hand = (publish(any_store) for _ in range(3))
    Registry(any_store).decide("demo", to=first.version, why="first")
    with any_store.begin("report", "demo", KEY, settings={}, upstream={"trained": second}) as report:
        report.facts.update(metrics={}, decision=Decision(True, "better", str(first)).to_json())
        report.seal()
    other = Registry(ArtifactStore.open(any_store.storage.settings))
    before(any_store.storage, "create", "00000002.json", lambda: other.decide("demo", to=hand.version, why="by hand"))
    published = publish_decision(any_store, trained=str(second), report=str(report.ref), approved=True)
    assert (published.promoted, published.new) == (False, True)
    assert f"the champion was changed to {hand} meanwhile" in published.why
    assert Registry(any_store).resolve("demo") == hand
    assert [entry.action for entry in Registry(any_store).entries("demo")] == ["promote", "promote", "refuse"]


def test_a_decision_against_another_history_is_refused(any_store: ArtifactStore) -> None:
    ref, registry = publish(any_store), Registry(any_store)
    registry.decide("demo", to=ref.version, why="first", expected=0)
    with pytest.raises(ConflictError, match="expected entry 0 to be the last, got 1"):
        registry.decide("demo", to=ref.version, why="again", expected=0)
    registry.decide("demo", to=None, why="none", expected=1)
    assert registry.aliases("demo") == {}


def test_a_version_that_is_deleted_while_it_is_promoted_is_no_champion(any_store: ArtifactStore) -> None:
    """Without the lease that the commands hold, so that gc does not wait."""
    refs, registry = [publish(any_store) for _ in range(4)], Registry(any_store)
    registry.decide("demo", to=refs[1].version, why="first")
    other = ArtifactStore.open(any_store.storage.settings)
    before(any_store.storage, "create", "00000002.json", lambda: gc(other))
    with pytest.raises(IntegrityError, match="was deleted while it was decided on"):
        registry.decide("demo", to=refs[0].version, why="by hand")
    assert registry.resolve("demo") == refs[1]
    assert [entry.action for entry in registry.entries("demo")] == ["promote", "promote", "retract"]
    assert damages(any_store) == []


def test_gc_puts_back_what_was_promoted_while_it_deleted(any_store: ArtifactStore) -> None:
    refs = [publish(any_store) for _ in range(4)]
    other = Registry(ArtifactStore.open(any_store.storage.settings))
    path = f"{refs[0]}/manifest.json"

    def promote() -> None:
        # As far as the entry goes: its writer looked before the manifest was gone.
        other._let_stand = lambda _entry: None  # type: ignore[method-assign]
        other.decide("demo", to=refs[0].version, why="by hand")

    before(any_store.storage, "delete", path, promote)
    with pytest.raises(ConflictError, match="an alias points to it"):
        gc(any_store)
    assert other.resolve("demo") == refs[0]
    assert damages(any_store) == []


def test_who_uses_the_store_says_so_and_gc_heeds_it(any_store: ArtifactStore) -> None:
    refs = [publish(any_store) for _ in range(3)]
    elsewhere = ArtifactStore.open(any_store.storage.settings)
    any_store.storage.limits = elsewhere.storage.limits = Limits(expires_s=30.0, renew_s=0.1, poll_s=0.05)
    with in_use(any_store, "evaluate"):
        assert [claim.doing for claim in claims(elsewhere.storage, IN_USE)] == ["evaluate"]
        writer = any_store.begin("report", "demo", KEY, settings={}, upstream={})
        assert gc(elsewhere) == []
        writer.add_bytes("report.json", b"{}")
        writer.seal()
        with in_use(any_store, "something within"):
            assert len(claims(elsewhere.storage, IN_USE)) == 1
    assert any_store.storage.list("leases") == []
    assert any_store.storage.folder is None or not (any_store.storage.folder / "leases").exists()
    assert gc(elsewhere) == [str(refs[0]), str(refs[1])]
    with Lease.hold(any_store, "demo"), in_use(any_store, "a step of a run"):
        assert claims(elsewhere.storage, IN_USE) == []


def test_a_store_that_cannot_be_written_to_is_read_all_the_same(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    ref = publish(store)

    def refuse(path: str, data: bytes) -> None:
        with store.storage.failures("write", path):
            raise PermissionError(13, f"{len(data)} bytes")

    store.storage.write_bytes = refuse  # type: ignore[method-assign]
    with in_use(store, "export"):
        assert store.local(ref).is_dir()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the store cannot be marked as in use")
    assert "access denied" in said
    assert store.storage.list("leases") == []


def test_a_mark_that_was_taken_away_fences_its_writer(store: ArtifactStore) -> None:
    store.storage.limits = Limits(renew_s=0.1)
    with in_use(store, "train"):
        writer = store.begin("model", "demo", KEY, settings={}, upstream={})
        store.storage.delete(store.storage.fences[0].path)
        with pytest.raises(Exception, match="Lease of _in-use was lost"):
            writer.seal()
        writer.abandon()
    assert store.versions("model", "demo") == []
