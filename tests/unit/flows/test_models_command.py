from __future__ import annotations

import json
import os

import pytest

from flows.cli import main as cli
from ts4s_core.artifacts.registry import Registry
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.pipeline.publication import Published, publish_decision, recorded_decision


def sealed(
    store: ArtifactStore, kind: str, key: str, *, upstream: dict[str, object] | None = None, **facts: object
) -> ArtifactRef:
    with store.begin(kind, "demo", key * 64, settings={}, upstream=upstream or {}) as writer:
        writer.add_json("facts.json", facts)
        writer.facts.update(facts)
        writer.seal()
    return writer.ref


def trained(
    store: ArtifactStore, key: str, accuracy: float, *, decision: Decision | None = None
) -> tuple[ArtifactRef, ArtifactRef]:
    ref = sealed(store, "trained", key, upstream={"dataset": "dataset/demo/x"}, weights_sha256=key * 64)
    decision = decision or Decision(True, "better", None)
    facts = {"metrics": {"accuracy": accuracy, "macro_f1": accuracy, "loss": 0.5}, "decision": decision.to_json()}
    return ref, sealed(store, "report", key, upstream={"trained": ref}, **facts)


def ts4s(store: ArtifactStore, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main([*words, "--storage.uri", store.storage.uri])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_show_says_what_the_contract_names(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    ref, report = trained(store, "a", 0.9)
    publish_decision(store, trained=str(ref), report=str(report), approved=True)
    code, out, _ = ts4s(store, capsys, "models", "show", "demo", "--json")
    assert code == 0
    shown = json.loads(out)
    assert set(shown) == {"name", "version", "aliases", "metrics", "weights_sha256", "upstream", "created"}
    assert (shown["version"], shown["aliases"], shown["metrics"]["accuracy"]) == (ref.version, ["champion"], 0.9)
    assert (shown["weights_sha256"], shown["upstream"]) == ("a" * 64, {"dataset": "dataset/demo/x"})


def test_list_promote_and_rollback(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = trained(store, "a", 0.9)[0], trained(store, "b", 0.8)[0]
    for ref in (first, second):
        assert ts4s(store, capsys, "models", "promote", "demo", ref.version, "--reason", "by hand")[0] == 0
    code, out, _ = ts4s(store, capsys, "models", "list", "--json")
    (model,) = json.loads(out)["models"]
    assert (code, model["name"], model["versions"], model["champion"], model["metrics"]["accuracy"]) == (
        0,
        "demo",
        2,
        second.version,
        0.8,
    )
    _, out, _ = ts4s(store, capsys, "models", "list")
    assert out.splitlines()[0].split() == ["name", "versions", "champion", "newest", "accuracy", "macro_f1", "loss"]
    code, out, _ = ts4s(store, capsys, "models", "rollback", "demo", "--reason", "worse", "--json")
    assert (code, json.loads(out)["version"], json.loads(out)["from"]) == (0, first.version, second.version)
    assert Registry(store).alias("demo") == first.version


def test_unknown_models_and_versions_are_exit_2(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    trained(store, "a", 0.9)
    for words in (
        ["show", "other"],
        ["show", "demo@other"],
        ["promote", "demo", "1", "--reason", "x"],
        ["rollback", "demo", "--reason", "x"],
    ):
        code, out, err = ts4s(store, capsys, "models", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")


def test_a_decision_is_published_once(store: ArtifactStore) -> None:
    ref, report = trained(store, "a", 0.9)
    assert recorded_decision(store, ref) is None
    assert publish_decision(store, trained=str(ref), report=str(report), approved=True) == Published(True, "better", new=True)
    again = publish_decision(store, trained=str(ref), report=str(report), approved=True)
    assert again == Published(True, "better", new=False)
    assert [entry.action for entry in Registry(store).entries("demo")] == ["promote"]


def test_a_refused_version_leaves_the_champion(store: ArtifactStore) -> None:
    first, report = trained(store, "a", 0.9)
    publish_decision(store, trained=str(first), report=str(report), approved=True)
    second, worse = trained(store, "b", 0.8, decision=Decision(False, "worse", str(first)))
    published = publish_decision(store, trained=str(second), report=str(worse), approved=True)
    assert (published.promoted, published.new) == (False, True)
    assert Registry(store).alias("demo") == first.version
    assert Registry(store).entries("demo")[-1].action == "refuse"


@pytest.mark.parametrize("approved", [True, False])
def test_a_promotion_needs_the_champion_it_was_compared_with_and_approval(store: ArtifactStore, approved: bool) -> None:
    first, report = trained(store, "a", 0.9)
    publish_decision(store, trained=str(first), report=str(report), approved=True)
    compared = None if approved else str(first)
    second, better = trained(store, "b", 0.95, decision=Decision(True, "better", compared))
    published = publish_decision(store, trained=str(second), report=str(better), approved=approved)
    assert published.promoted is False
    assert ("changed" if approved else "but it was not approved") in published.why
    assert Registry(store).alias("demo") == first.version


def test_verify_names_each_damaged_file_and_ends_with_1(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    ref = sealed(store, "dataset", "c")
    assert store.storage.folder is not None
    code, out, _ = ts4s(store, capsys, "models", "verify", "--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["damaged"]) == (0, True, [])
    path = store.storage.folder / str(ref) / "facts.json"
    path.write_bytes(path.read_bytes().replace(b"{", b"["))
    for words in (["models", "verify"], ["models", "verify", "demo"]):
        code, out, _ = ts4s(store, capsys, *words)
        assert code == 1
        assert f"{ref}/facts.json" in out
    code, out, _ = ts4s(store, capsys, "models", "verify", "--json")
    assert (code, [damage["path"] for damage in json.loads(out)["damaged"]]) == (1, [f"{ref}/facts.json"])


def test_gc_says_what_it_would_delete_and_deletes_it(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.storage.folder is not None
    assert ts4s(store, capsys, "models", "gc")[1] == "nothing to delete\n"
    left = store.storage.folder / "dataset" / "demo" / "20200101T000000.000000Z-00000000" / "part.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"12345")
    os.utime(left, (0, 0))
    code, out, _ = ts4s(store, capsys, "models", "gc", "--dry-run", "--json")
    assert (code, json.loads(out)["bytes"], left.exists()) == (0, 5, True)
    code, out, _ = ts4s(store, capsys, "models", "gc", "--json")
    assert (code, json.loads(out)["bytes"], left.exists()) == (0, 5, False)


def test_gc_and_verify_are_readable(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    refs = [sealed(store, "dataset", key) for key in "abcde"]
    words = ["models", "gc", "--storage.keep_last", "2", "--storage.grace_hours", "0"]
    _, out, _ = ts4s(store, capsys, *words, "--dry-run")
    lines = out.splitlines()
    assert lines[0].split() == ["would", "be", "deleted", "size", "why"]
    assert [line.split() for line in lines[1:4]] == [[str(ref), "3", "B", "unreferenced"] for ref in refs[:3]]
    assert lines[4] == "3 would be deleted, 9 B in all. Nothing was deleted: without --dry-run it is"
    assert store.versions("dataset", "demo") == refs
    _, out, _ = ts4s(store, capsys, *words)
    assert out.splitlines()[-1] == "3 deleted, 9 B in all"
    assert store.versions("dataset", "demo") == refs[3:]
    _, out, _ = ts4s(store, capsys, "models", "verify")
    assert out.splitlines()[0].split() == ["version", "files", "size", "made", "from", "code", "state"]
    row = out.splitlines()[1].split()
    assert [*row[:5], row[-1]] == [str(refs[3]), "1", "3", "B", "-", "ok"]


def test_show_tells_the_history_and_free_aliases_move(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = trained(store, "a", 0.9)[0], trained(store, "b", 0.8)[0]
    for ref in (first, second):
        code, _, _ = ts4s(store, capsys, "models", "promote", "demo", ref.version, "--reason", "try it", "--alias", "staging")
        assert code == 0
    assert Registry(store).aliases("demo") == {"staging": second.version}
    code, out, _ = ts4s(store, capsys, "models", "rollback", "demo", "--reason", "slow", "--alias", "staging", "--json")
    assert (code, json.loads(out)["alias"], json.loads(out)["version"]) == (0, "staging", first.version)
    _, out, _ = ts4s(store, capsys, "models", "show", "demo@staging")
    history = out[out.index("history of demo") :].splitlines()
    assert history[1].split() == ["number", "when", "what", "alias", "version", "who", "why"]
    assert [line.split()[2:5] for line in history[2:]] == [
        ["promote", "@staging", first.version],
        ["promote", "@staging", second.version],
        ["rollback", "@staging", first.version],
    ]


def test_a_dataset_that_was_replaced_is_found_by_lineage(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, other = sealed(store, "dataset", "c"), sealed(store, "dataset", "d", rows=1)
    model = sealed(store, "model", "e", upstream={"dataset": dataset})
    assert ts4s(store, capsys, "models", "verify")[0] == 0
    assert store.storage.folder is not None
    folder, foreign = store.storage.folder / str(dataset), store.storage.folder / str(other)
    (folder / "facts.json").write_bytes((foreign / "facts.json").read_bytes())
    record = json.loads((foreign / "manifest.json").read_bytes()) | {"version": dataset.version}
    (folder / "manifest.json").write_text(json.dumps(record))
    code, out, _ = ts4s(store, capsys, "models", "verify")
    assert code == 1
    assert f"{dataset}: is not what {model} was made from" in out
