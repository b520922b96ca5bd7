from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.errors import DataError, IntegrityError, NonFiniteError
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.evaluation.steps.classifier import evaluate
from ts4s_core.evaluation.steps.evaluation import read_decision
from ts4s_core.process_state import PROCESS
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import flow_settings

Make = Callable[..., Any]
FILES = ["confusion.csv", "decision.json", "metrics.json", "per_class.csv", "predictions.parquet", "report.html"]


@pytest.fixture(autouse=True)
def fresh_worker() -> None:
    PROCESS.clear()


@pytest.fixture
def run(settings: Settings, store: ArtifactStore) -> Make:
    def evaluated(trained: ArtifactRef, dataset: ArtifactRef, *, changes: dict[str, Any] | None = None, **rest: Any) -> Any:
        values = {**settings.model_dump(), **(changes or {})}
        return evaluate(Settings(**values), store, LocalEngine(), trained=trained, dataset=dataset, **rest)

    return evaluated


def content(store: ArtifactStore, ref: ArtifactRef, path: str) -> bytes:
    return store.local_file(ref, path).read_bytes()


def test_a_first_version_is_reported_whole(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare(lines(900))
    trained = train(dataset, weights(3.0))
    result = run(trained, dataset, step_seconds={"export": 2.0, "train": 30.0})
    manifest = store.manifest(result.ref)
    assert (result.ref.kind, result.ref.name, result.reused) == ("report", "demo", False)
    assert [entry.path for entry in manifest.files] == FILES
    assert [entry.path for entry in manifest.files if not entry.identity] == ["report.html"]
    assert manifest.upstream == {"trained": str(trained), "dataset": str(dataset)}

    rows = pq.read_table(store.local_file(result.ref, "predictions.parquet")).to_pylist()
    truth, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    probabilities = [row["probabilities"] for row in rows]
    metrics = result.facts["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert metrics["loss"] == pytest.approx(log_loss(truth, [[p / sum(row) for p in row] for row in probabilities]), abs=1e-6)
    assert metrics["accuracy"] > 0.7
    assert [row["correct"] for row in rows] == [t == p for t, p in zip(truth, predicted, strict=True)]
    with Dataset.open(store, dataset) as opened:
        assert [row["text"] for row in rows] == [
            text for part in opened.read("test", ["text"]) for text in part["text"].to_pylist()
        ]

    whole = json.loads(content(store, result.ref, "metrics.json"))
    assert whole["rows"] == result.facts["rows"] == len(rows)
    assert {name: whole[name] for name in metrics} == metrics
    cells = list(csv.DictReader(io.StringIO(content(store, result.ref, "confusion.csv").decode())))
    assert sum(int(cell["rows"]) for cell in cells) == len(rows)

    decision = read_decision(store, result.ref)
    assert decision.promote
    assert decision.champion is None
    assert "beats the majority class" in decision.why
    assert json.loads(content(store, result.ref, "decision.json")) == decision.to_json()
    page = content(store, result.ref, "report.html").decode()
    for shown in ("No champion yet", str(trained), str(dataset), "Loss by step", "812.5", "export", "data.show_text", "bad rows"):
        assert shown in page
    settings = page.partition('id="settings"')[2]
    named = re.findall(r">((?:\w+\.)?\w+)</td>", settings)
    assert [name for name in named if name in flow_settings("retrain").names][:10] == list(flow_settings("retrain").first)
    assert not {"model.tokenizer_kind", "model.cell", "data.window", "generate.prompt", "storage.secret"} & set(named)


def test_the_same_again_is_found_and_another_metric_or_code_is_not(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make, edited: Callable[[str], None]
) -> None:
    dataset = prepare(lines(300))
    trained = train(dataset, weights(3.0))
    first = run(trained, dataset)
    again = run(trained, dataset, step_seconds={"export": 9.0})
    assert (again.ref, again.reused, again.facts) == (first.ref, True, first.facts)
    other = run(trained, dataset, changes={"evaluate": {"metric": "loss"}})
    assert not other.reused
    assert read_decision(store, other.ref).figures["metric"] == "loss"
    assert not run(trained, dataset, changes={"reuse": False}).reused
    edited("training/step/engine.py")
    assert run(trained, dataset).reused
    edited("evaluation/report/page.py")
    assert not run(trained, dataset).reused


def test_a_better_candidate_beats_the_champion_and_a_worse_one_does_not(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare(lines(1_500))
    champion, better, worse = (train(dataset, weights(skill)) for skill in (1.0, 3.0, 0.7))
    promoted = read_decision(store, run(better, dataset, champion=champion).ref)
    assert promoted.promote
    assert promoted.champion == str(champion)
    figures = promoted.figures
    assert figures["gain"]["low"] > 0
    assert figures["gain"]["gain"] == pytest.approx(figures["gain"]["candidate"] - figures["gain"]["champion"])
    assert figures["gain"]["rows"] + figures["removed"] == store.manifest(dataset).facts["rows"]["test"]
    assert figures["removed"] == 0
    assert {name: figure["beyond"] for name, figure in figures["drift_figures"].items()} == dict.fromkeys(
        ("length", "vocabulary", "labels"), False
    )
    assert not read_decision(store, run(worse, dataset, champion=better).ref).promote
    asked = run(better, dataset, champion=champion, changes={"evaluate": {"min_improvement": 0.9}})
    assert "below evaluate.min_improvement 0.9" in read_decision(store, asked.ref).why


def test_the_champion_itself_keeps_the_report_that_promoted_it(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare(lines(600))
    old, new = train(dataset, weights(1.0)), train(dataset, weights(3.0))
    promoted = run(new, dataset, champion=old)
    again = run(new, dataset, champion=new)
    assert (again.ref, again.reused) == (promoted.ref, True)
    forced = run(new, dataset, champion=new, changes={"reuse": False})
    decision = read_decision(store, forced.ref)
    assert not decision.promote
    assert decision.why == "this version is the champion already"


def test_rows_that_either_was_trained_on_are_left_out(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    rows = lines(900)
    old_data, new_data = prepare(rows, name="old", seed=1), prepare(rows, name="new", seed=2)
    champion = train(old_data, weights(1.0), name="old")
    candidate = train(new_data, weights(3.0))
    decision = read_decision(store, run(candidate, new_data, champion=champion).ref)

    def ids(dataset: ArtifactRef, side: str) -> set[bytes]:
        with Dataset.open(store, dataset) as opened:
            return {value for part in opened.read(side, ["id"]) for value in part["id"].to_pylist()}

    shared = ids(new_data, "test") & ids(old_data, "train")
    assert len(shared) > 100
    assert decision.figures["removed"] == len(shared)
    assert decision.figures["gain"]["rows"] == len(ids(new_data, "test")) - len(shared)
    assert decision.promote


def test_a_candidate_that_began_as_the_champion_has_seen_its_rows_too(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    rows = lines(600)
    old_data, new_data = prepare(rows, name="old", seed=1), prepare(rows, name="new", seed=2)
    grandparent = train(old_data, weights(1.0), name="old")
    champion = train(new_data, weights(1.0), name="other")
    candidate = train(new_data, weights(2.0), upstream={"model": grandparent})
    decision = read_decision(store, run(candidate, new_data, champion=champion).ref)
    assert decision.figures["removed"] > 50


def test_a_champion_whose_data_are_gone_is_compared_with_a_note(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    rows = lines(600)
    old_data, new_data = prepare(rows, name="old", seed=1), prepare(rows, name="new", seed=2)
    champion, candidate = train(old_data, weights(1.0), name="old"), train(new_data, weights(3.0))
    store.delete(old_data)
    result = run(candidate, new_data, champion=champion)
    decision = read_decision(store, result.ref)
    assert decision.promote
    assert f"data of the champion are no longer in the store ({old_data})" in decision.why
    assert "its dataset is no longer in the store" in content(store, result.ref, "report.html").decode()


def test_changed_labels_keep_the_champion(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    old_data = prepare(lines(600), name="old")
    new_data = prepare(lines(600, labels=("a", "b", "d")), name="new")
    champion = train(old_data, weights(1.0), name="old")
    candidate = train(new_data, weights(3.0), labels=("a", "b", "d"))
    decision = read_decision(store, run(candidate, new_data, champion=champion).ref)
    assert not decision.promote
    assert "changed label set (new: d; gone: c)" in decision.why
    assert decision.figures["gain"] is None


def test_drift_keeps_the_champion_unless_the_bound_allows_it(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    old_data, new_data = prepare(lines(900), name="old"), prepare(lines(900, seed=1, words=40), name="new")
    champion, candidate = train(old_data, weights(1.0), name="old"), train(new_data, weights(3.0))
    result = run(candidate, new_data, champion=champion)
    decision = read_decision(store, result.ref)
    assert not decision.promote
    assert "data drift in length" in decision.why
    assert "(100.0 %) were not in the champion" in content(store, result.ref, "report.html").decode()
    allowed = run(candidate, new_data, champion=champion, changes={"evaluate": {"max_drift": 50.0}})
    assert read_decision(store, allowed.ref).promote


def test_texts_stay_out_of_everything_when_asked(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare([f"{line} confidential" for line in lines(300)])
    trained = train(dataset, weights(1.0))
    shown = run(trained, dataset)
    assert b"confidential" in content(store, shown.ref, "report.html")
    hidden = run(trained, dataset, changes={"data": {"show_text": False}})
    assert hidden.ref != shown.ref
    for path in FILES:
        assert b"confidential" not in content(store, hidden.ref, path)
    table = pq.read_table(store.local_file(hidden.ref, "predictions.parquet"))
    assert "text" not in table.column_names
    assert "texts are kept out of this report" in content(store, hidden.ref, "report.html").decode()


def test_multi_label_data_are_reported(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare([line.replace("c\t", "a|b\t", 1) for line in lines(600)], task="multi-label")
    first, second = (train(dataset, weights(skill)[:, :2].copy(), labels=("a", "b")) for skill in (0.2, 2.0))
    result = run(second, dataset, champion=first, changes={"evaluate": {"metric": "macro_f1"}})
    rows = pq.read_table(store.local_file(result.ref, "predictions.parquet")).to_pylist()
    assert {tuple(row["label"]) for row in rows} == {(0,), (1,), (0, 1)}
    assert read_decision(store, result.ref).figures["gain"]["low"] > -1
    assert b"label,tn,fp,fn,tp" in content(store, result.ref, "confusion.csv")


def test_a_failure_leaves_no_version(
    store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare(lines(300))
    with pytest.raises(NonFiniteError, match="expected finite logits"):
        run(train(dataset, weights(1.0) * float("inf")), dataset)
    with pytest.raises(DataError, match="expected the model's labels"):
        run(train(dataset, weights(1.0), labels=("x", "y", "z")), dataset)
    assert store.versions("report", "demo") == []


def test_a_report_without_a_decision_is_refused(store: ArtifactStore) -> None:
    with store.begin("report", "demo", "ab" * 32, settings={}, upstream={}) as writer:
        writer.facts = ReportFacts(metrics={"accuracy": 0.5}).to_json()
        ref = writer.seal().ref
    with pytest.raises(IntegrityError, match="has no decision"):
        read_decision(store, ref)


def test_a_leak_stops_promotion(store: ArtifactStore, prepare: Make, train: Make, run: Make, lines: Make, weights: Make) -> None:
    clean = prepare(lines(300))
    manifest = store.manifest(clean)
    with store.begin("dataset", "leaking", "ab" * 32, settings={}, upstream={}) as writer:
        for entry in manifest.files:
            # The training side twice: once as itself, once in the place of the test side.
            source = entry.path.replace("test/", "train/")
            groups = manifest.file(source).row_groups
            writer.add_file(store.local_file(clean, source), entry.path, row_groups=groups)
        writer.facts |= manifest.facts
        leaking = writer.seal().ref
    result = run(train(leaking, weights(3.0)), leaking)
    decision = read_decision(store, result.ref)
    rows = manifest.facts["rows"]["train"]
    assert not decision.promote
    assert decision.why == f"leak: {rows} text(s) of the test side are in the training side too"
