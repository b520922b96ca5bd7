from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data import schema
from ts4s_core.data.data_engine import LocalEngine, split_by_group
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import scan
from ts4s_core.data.sides import SIDES, SidePlan, text_id
from ts4s_core.data.tokenizers import load_tokenizer, pad_id_of
from ts4s_core.errors import DataError, IntegrityError, NotFoundError, SettingsError, SourceError
from ts4s_core.settings import Settings

Prepare = Callable[..., Any]
Rows = list[tuple[str, str]]


def all_rows(dataset: Dataset) -> list[dict[str, Any]]:
    return [{"side": side, **row} for side in SIDES for table in dataset.read(side) for row in table.to_pylist()]


def test_rows_sides_labels_and_tokens(prepare: Prepare, tsv: Path, sentences: Rows, tokenizer_folder: Path) -> None:
    prepared = prepare(tsv)
    dataset, plan = prepared.dataset, SidePlan(0, 0.1, 0.2)
    rows = all_rows(dataset)
    assert dataset.labels == ("north", "south", "wést")
    assert Counter((dataset.labels[row["label"]], row["text"]) for row in rows) == Counter(sentences)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for row in rows:
        ids = tokenizer.encode(row["text"]).ids
        assert row["input_ids"] == (ids if len(ids) <= 8 else [*ids[:7], ids[-1]])
        assert (row["length"], row["id"]) == (len(row["input_ids"]), text_id(row["text"]))
        assert row["side"] == SIDES[plan.side_of(row["text"])]
    for side in SIDES:
        keys = [(row["id"], row["label"]) for row in rows if row["side"] == side]
        assert keys == sorted(keys)
        assert dataset.rows(side) == len(keys) == prepared.result.facts["rows"][side]


def test_card_and_facts(prepare: Prepare, sentences: Rows, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\n\n" + "".join(f"{label}\t{text}\n" for label, text in sentences) + "bad\n")
    prepared = prepare(path)
    card, facts = prepared.dataset.card(), prepared.result.facts
    distinct = len(set(sentences))
    labels_of: dict[str, set[str]] = {}
    for label, text in sentences:
        labels_of.setdefault(text, set()).add(label)
    conflicting = {text for text, labels in labels_of.items() if len(labels) > 1}
    assert "the twin" in conflicting
    assert card["rows"] == len(sentences)
    assert card["duplicates"] == len(sentences) - distinct
    assert card["conflicting_texts"] == len(conflicting)
    assert card["conflicting_rows"] == sum(text in conflicting for _, text in sentences)
    assert {example["text"] for example in card["conflicts"]} <= conflicting
    assert all(len(example["labels"]) > 1 for example in card["conflicts"])
    words = [len(text.split()) for _, text in sentences]
    assert card["truncated"] == sum(count + 2 > 8 for count in words)
    assert card["tokens"] == sum(min(count + 2, 8) for count in words)
    lengths = card["lengths"]["all"]
    assert (lengths["min"], lengths["max"]) == (3, 8)
    assert lengths["mean"] == pytest.approx(card["tokens"] / card["rows"], abs=1e-3)
    assert [entry["rows"] for entry in lengths["histogram"]] == [
        sum(min(count + 2, 8) == length for count in words) for length in range(1, 9)
    ]
    assert (card["blank_lines"], card["bad_rows"], card["lines"]) == (2, 1, len(sentences) + 3)
    assert {name: facts[name] for name in ("duplicates", "truncated", "bad_rows", "fingerprint")} == {
        name: card[name] for name in ("duplicates", "truncated", "bad_rows", "fingerprint")
    }
    bad = json.loads(prepared.store.local_file(prepared.result.ref, "bad_rows.json").read_text())
    assert bad["rows"] == [{"file": str(path), "line": len(sentences) + 3, "reason": "no tab between label and text"}]


def test_bytes_hang_on_the_rows_alone(prepare: Prepare, tsv: Path, sentences: Rows, tmp_path: Path) -> None:
    expected = prepare(tsv).files()
    assert {path.split("/")[0] for path in expected} == {"train", "validation", "test", "labels.json", "tokenizer"}
    mixed = sentences[:]
    random.Random(1).shuffle(mixed)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(5):
        part = mixed[number::5]
        (folder / f"{9 - number}.tsv").write_text("\n".join(f" {label} \t{text}\r\n" for label, text in part))
    assert prepare(folder, store=tmp_path / "b").files() == expected
    assert prepare(folder, engine=LocalEngine(spill_bytes=1), store=tmp_path / "c").files() == expected
    table = pa.table({"label": [label for label, _ in mixed], "text": [text for _, text in mixed]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=37)
    assert prepare(tmp_path / "a.parquet", store=tmp_path / "d").files() == expected
    (tmp_path / "a.json").write_text(json.dumps(table.to_pylist()))
    assert prepare(tmp_path / "a.json", store=tmp_path / "e").files() == expected


def test_a_row_keeps_its_side_as_data_grow(prepare: Prepare, sentences: Rows, tmp_path: Path) -> None:
    sides = []
    for count in (200, 400):
        path = tmp_path / f"{count}.tsv"
        path.write_text("".join(f"{label}\t{text}\n" for label, text in sentences[:count]))
        sides.append({row["text"]: row["side"] for row in all_rows(prepare(path, store=tmp_path / str(count)).dataset)})
    assert sides[0].items() <= sides[1].items()


def test_a_done_step_is_found_whatever_its_path(
    prepare: Prepare, tsv: Path, tmp_path: Path, edited: Callable[[str], None]
) -> None:
    first = prepare(tsv)
    (tmp_path / "copy.tsv").write_bytes(tsv.read_bytes() + b"\n\n")
    again = prepare(tmp_path / "copy.tsv")
    assert (again.result.reused, again.result.ref) == (True, first.result.ref)
    for changed in ({"max_length": 9}, {"seed": 1}, {"test_fraction": 0.3}, {"max_rows": 300}):
        assert prepare(tsv, **changed).result.ref != first.result.ref
    edited("evaluation/report/page.py")
    assert prepare(tsv).result.ref == first.result.ref
    edited("data/tokenizers.py")
    assert not prepare(tsv).result.reused


def test_max_rows_keeps_copies_within_the_limit(prepare: Prepare, sentences: Rows, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{label}\t{text}\n" for label, text in sentences[:30]) * 20)
    prepared = prepare(path, max_rows=505)
    assert len(all_rows(prepared.dataset)) == prepared.scan.rows == 505


def test_several_labels(prepare: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(
        "".join(f"{'xyz'[n % 3]}|{'xyz'[n % 2]}\tred cat {n}\n" for n in range(60)) + "y|x\tred cat 4\nz\tred cat 4\n"
    )
    dataset = prepare(path, task="multi-label").dataset
    rows = {row["text"]: row["label"] for row in all_rows(dataset) if row["text"] != "red cat 4"}
    assert dataset.labels == ("x", "y", "z")
    assert all(rows[f"red cat {n}"] == sorted({n % 3, n % 2}) for n in range(60) if n != 4)
    assert dataset.card()["conflicts"] == [{"text": "red cat 4", "labels": [["x", "y"], ["z"]]}]


def test_files_and_row_groups_have_their_sizes(
    prepare: Prepare, tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [{**row, "side": row["side"]} for row in all_rows(prepare(tsv).dataset)]
    monkeypatch.setattr(schema, "ROWS_PER_BUCKET", 40)
    monkeypatch.setattr(schema, "ROWS_PER_GROUP", 16)
    monkeypatch.setattr("ts4s_core.data.prepare.ROWS_PER_FILE", 33)
    with prepare(tsv, store=tmp_path / "b").dataset as dataset:
        assert all_rows(dataset) == whole
        places = dataset.row_groups["train"]
        assert len({place.file for place in places}) > 8
        assert max(dataset.rows_per_group("train")) == 16
        assert sum(dataset.rows_per_group("train")) == dataset.rows("train")
        picked = list(dataset.read_row_groups("train", [len(places) - 1, 0], ["length"]))
        assert [table.num_rows for table in picked] == [places[-1].rows, places[0].rows]
        assert picked[0].column_names == ["length"]


def test_a_damaged_row_group_is_found_when_it_is_read(prepare: Prepare, tsv: Path) -> None:
    prepared = prepare(tsv)
    dataset = prepared.dataset
    path = prepared.store.storage.folder / str(dataset.ref) / "train" / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="row group 0"):
        list(dataset.read_row_groups("train", [0]))
    assert dataset.rows("train") > 256
    assert next(dataset.read_row_groups("train", [1])).num_rows > 0


def test_dataset_refuses_what_is_not_there(prepare: Prepare, tsv: Path, tokenizer_folder: Path) -> None:
    dataset = prepare(tsv).dataset
    with pytest.raises(NotFoundError, match="no side 'dev': it has train, validation, test"):
        dataset.rows("dev")
    folder = dataset.tokenizer_folder()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in tokenizer_folder.iterdir()
    }
    assert (dataset.pad_id, dataset.max_length, dataset.task) == (0, 8, "classification")


def test_data_that_change_between_the_two_readings(
    settings_for: Callable[..., Settings], tokenizer_folder: Path, sentences: Rows, tmp_path: Path
) -> None:
    path = tmp_path / "a.tsv"
    for more in ("north\tthe late one\n", "west\tthe late one\n"):
        path.write_text("".join(f"{label}\t{text}\n" for label, text in sentences))
        settings = settings_for(path)
        found = scan(settings, LocalEngine())
        path.write_text("".join(f"{label}\t{text}\n" for label, text in sentences[1:]) + more)
        store = ArtifactStore.open(settings.storage)
        with pytest.raises(DataError, match="changed while they were read"):
            prepare_dataset(settings, store, LocalEngine(), scan=found, tokenizer_folder=tokenizer_folder)
        assert store.versions("dataset", "demo") == []


def test_tokenizers_that_cannot_be_used(prepare: Prepare, tsv: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"model\.max_length 2 leaves no room for text: this tokenizer adds 2 .* Use 3 or more"
    ):
        prepare(tsv, max_length=2)
    with pytest.raises(SourceError, match=r"expected a file tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match="cannot be read"):
        load_tokenizer(tmp_path)
    assert pad_id_of(tokenizer_folder) == 0


def test_groups_are_split_in_order() -> None:
    batch = pa.RecordBatch.from_pydict({"group": pa.array([2, 0, 2, 1, 0], pa.int32()), "row": pa.array([0, 1, 2, 3, 4])})
    assert [(group, rows.column("row").to_pylist()) for group, rows in split_by_group(batch)] == [
        (0, [1, 4]),
        (1, [3]),
        (2, [0, 2]),
    ]
    assert list(split_by_group(batch.slice(0, 0))) == []


def test_buckets_bound_rows_and_bytes() -> None:
    assert [schema.buckets_for(rows, 0) for rows in (0, 49_152, 49_153, 10**6)] == [1, 1, 2, 32]
    assert schema.buckets_for(10, 2**30) == 4
    ends = (b"\x00" * 16, b"\x7f" + b"\xff" * 15, b"\x80" + b"\x00" * 15, b"\xff" * 16)
    assert [schema.bucket_of(row_id, 4) for row_id in ends] == [0, 1, 2, 3]
