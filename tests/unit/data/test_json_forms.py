"""JSON that holds one object for all rows is named; JSON a line is read, whatever its first row is."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings

FRAME = pd.DataFrame({"label": ["sport", "money"] * 300, "text": [f"text number {number}" for number in range(600)]})
RECORDS = FRAME.to_dict(orient="records")


def texts(path: Path) -> list[str]:
    source = open_source(DataSettings(source=str(path)), StorageSettings(), LocalEngine(), split_bytes=900)
    return [row.text for split in source.splits for row in source.read(split, Tally())]


@pytest.mark.parametrize("rows", [600, 2])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("orient", "kind"),
    [
        ("columns", "one object with a value for each column"),
        ("index", "one object with the rows under their numbers"),
        ("split", "pandas' split form"),
        ("table", "pandas' table form"),
        ("lists", "one object with a value for each column"),
    ],
)
def test_the_forms_of_pandas(tmp_path: Path, orient: str, kind: str, rows: int, indent: int | None) -> None:
    frame, path = FRAME.head(rows), tmp_path / "rows.json"
    value = frame.to_dict(orient="list") if orient == "lists" else json.loads(frame.to_json(orient=orient))
    if orient == "lists" and (rows == 600 or indent):
        pytest.skip("a row may begin with a list of labels: it is told apart only where it is complete")
    path.write_text(json.dumps(value, indent=indent))
    for reader in (texts, lambda path: open_texts(DataSettings(source=str(path)), StorageSettings(), LocalEngine(), slots=1)):
        with pytest.raises(DataError, match=rf"rows\.json holds {kind}.*expected one object a line.*Write it so \(in pandas: "):
            reader(path)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["data", "rows", "results"])
def test_wrapped_rows(tmp_path: Path, key: str, indent: int | None) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({key: RECORDS, "version": 1}, indent=indent))
    with pytest.raises(DataError, match=rf"holds rows wrapped in an object, under '{key}': .*jq -c '\.{key}\[\]'"):
        texts(tmp_path / "rows.json")


def test_objects_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(record, indent=2) for record in RECORDS))
    with pytest.raises(DataError, match=r"holds objects over several lines: .*jq -c \."):
        texts(tmp_path / "rows.json")


@pytest.mark.parametrize(
    "first",
    [
        '{"meta": {"a": 1}, "label": "sport", "text": "first"}',
        '{"tags": [{"a": 1}], "label": "sport", "text": "first"}',
        '{"index": 1, "label": "sport", "text": "first"}',
        '{"data": [[1, 2]], "label": "sport", "text": "first", "more": "' + "x" * 9_000 + '"}',
        '{broken "label"',
        "{}",
        '{"text": "no label"}',
    ],
)
def test_lines_are_read_whatever_the_first_is(tmp_path: Path, first: str) -> None:
    if first.startswith('{"data"'):
        first = first.replace('"data"', '"pairs"')
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([first, *map(json.dumps, RECORDS)]) + "\n")
    assert [text for text in texts(path) if text != "first"] == [record["text"] for record in RECORDS]


def test_records_of_pandas_are_rows(tmp_path: Path) -> None:
    FRAME.to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
    FRAME.to_json(tmp_path / "array.json", orient="records")
    assert texts(tmp_path / "lines.jsonl") == texts(tmp_path / "array.json") == FRAME["text"].tolist()
