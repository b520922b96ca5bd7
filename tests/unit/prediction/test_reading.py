"""Every row of every format comes out, good or with its reason, in order."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.errors import DataError, SourceError
from ts4s_core.prediction import source_rows as reading
from ts4s_core.prediction.source_rows import TextRow, open_texts
from ts4s_core.settings import DataSettings, StorageSettings


def rows(path: Path, **data: object) -> list[TextRow]:
    source = open_texts(DataSettings(source=str(path), **data), StorageSettings(), LocalEngine(), slots=1)
    return [row for part in source.splits for row in source.without_splits().read(part)]


def test_tsv_with_labels_and_without(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbfsport\tone goal\r\nno label here\n\n \t \nx\ta\tb\n\xff\n")
    found = rows(path)
    assert [row.text for row in found] == ["one goal", "no label here", "a\tb", None]
    assert found[3].reason == f"{path} line 6: not UTF-8"


def test_plain_lines_keep_their_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ttwo\nthree\n")
    assert [row.text for row in rows(tmp_path / "a.txt")] == ["one\ttwo", "three"]


def test_csv_with_an_id(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n7,"two\nlines"\n8\n9,""\n')
    found = rows(path, id_column="id")
    assert found[0] == TextRow("two\nlines", "7")
    assert [row.reason for row in found[1:]] == [f"{path} line 4: 1 fields where the header has 2", f"{path} line 5: empty text"]
    assert found[2].id == "9"
    with pytest.raises(DataError, match=r"has no column 'body'.*Set data.text_column"):
        rows(path, text_column="body")
    with pytest.raises(DataError, match=r"has no column 'key'.*Set data.id_column"):
        rows(path, id_column="key")


def test_json_lines_and_arrays_keep_the_id_of_a_bad_row(tmp_path: Path) -> None:
    values: list[object] = [{"id": 1, "text": "good"}, {"id": 2, "text": None}, {"id": 3, "text": 5}, {"id": 4}, 6]
    reasons = [None, "null text", "the text is a int, not a string", "no column 'text', it has 'id'", "not a JSON object"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values) + "{broken\n")
    (tmp_path / "b.json").write_text(json.dumps(values))
    lines, array = rows(tmp_path / "a.jsonl", id_column="id"), rows(tmp_path / "b.json", id_column="id")
    for found in (lines[:5], array):
        assert [row.id for row in found] == ["1", "2", "3", "4", None]
        assert [row.reason and row.reason.partition(": ")[2] for row in found] == reasons
    assert lines[5].reason is not None
    assert "line 6: not JSON" in lines[5].reason


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["a", None, "c"]}), path, row_group_size=2)
    assert rows(path, id_column="id") == [TextRow("a", "1"), TextRow(None, "2", "null text"), TextRow("c", "3")]
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(DataError, match="of type int64: expected text"):
        rows(path)


def test_parquet_that_unfolds_without_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    table = pa.table({"text": ["a", "x" * (80 * 2**20)], "id": ["1", "2"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"bomb.parquet is refused: 2 rows of 'text' .* only a file made to fill the memory does"):
        rows(path)
    # A column that is not read may be as it likes.
    pq.write_table(table.rename_columns(["body", "text"]), path, compression="zstd", use_dictionary=False)
    assert rows(path) == [TextRow("1"), TextRow("2")]


def test_a_text_that_parquet_holds_once_is_held_once(tmp_path: Path) -> None:
    """Else a small file whose rows share a long text would fill the memory."""
    path = tmp_path / "shared.parquet"
    pq.write_table(pa.table({"text": ["x" * 100_000] * 1_000}), path)
    assert path.stat().st_size < 10_000
    texts = [row.text for row in rows(path)]
    assert [len(text or "") for text in texts] == [100_000] * 1_000
    assert len(set(map(id, texts))) == 1


def test_parts_of_a_file_are_its_lines_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LEAST_SPLIT_BYTES", 50)
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(200)))
    source = open_texts(DataSettings(source=str(tmp_path / "a.txt")), StorageSettings(), LocalEngine(), slots=2)
    assert len(source.splits) > 20
    assert [row.text for part in source.splits for row in source.read(part)] == [f"line {number}" for number in range(200)]


def test_a_file_that_cannot_be_cut_is_shared(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    source = open_texts(DataSettings(source=str(tmp_path / "a.csv")), StorageSettings(), LocalEngine(), slots=3)
    assert [(part.number, part.share, part.of) for part in source.splits] == [(0, 0, 3), (0, 1, 3), (0, 2, 3)]


def test_docstrings_and_what_is_not_there(tmp_path: Path) -> None:
    data = DataSettings(format="docstrings", source="networkx", max_rows=60)
    source = open_texts(data, StorageSettings(), LocalEngine(), slots=1)
    found = [row for part in source.splits for row in source.read(part)]
    assert 40 <= len(found) <= 60
    assert all(row.text for row in found)
    with pytest.raises(SourceError, match="does not exist"):
        rows(tmp_path / "none.tsv")
