from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.data.formats import json_rows
from ts4s_core.data.formats.csv_rows import CsvReader, fields_of
from ts4s_core.data.formats.json_rows import array_records, is_array, line_records
from ts4s_core.data.formats.lines import lines_between
from ts4s_core.data.formats.parquet import cell_records, row_groups_in, rows_in
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, Columns, Row, Tally, rows_of
from ts4s_core.errors import DataError

COLUMNS = Columns("text", "label", multi_label=False)
MANY = Columns("text", "label", multi_label=True)


def from_csv(data: bytes, columns: Columns = COLUMNS) -> tuple[list[Row], Tally]:
    tally = Tally()
    reader = CsvReader("x.csv", columns.named, dialect=columns.dialect, show_text=True)
    records = reader.read(lines_between(io.BytesIO(data), 0, None), tally, by_label=True)
    return list(rows_of(records, columns, tally)), tally


def from_json(data: bytes, columns: Columns = COLUMNS) -> tuple[list[Row], Tally]:
    tally = Tally()
    if is_array(data):
        records = array_records(io.BytesIO(data), "x.json", columns.names, tally, show_text=True)
    else:
        records = line_records(lines_between(io.BytesIO(data), 0, None), columns.names, tally, show_text=True)
    return list(rows_of(records, columns, tally)), tally


def test_csv_quotes_commas_and_line_ends_inside_quotes() -> None:
    rows, tally = from_csv(b'\xef\xbb\xbfid,text,label\r\n1,"a, ""b""\r\nc",x\r\n\r\n2, d ,"y"\r\n')
    assert rows == [Row(("x",), 'a, "b"\nc'), Row(("y",), "d")]
    assert (tally.lines, tally.blank, tally.bad) == (5, 1, [])


def test_csv_bad_rows_have_the_line_they_begin_on() -> None:
    data = b'label,text\na,"two\nlines"\nb\nc,"x"y\nd,"\xff"\n,t\ne,\nf,5" wide\ng,"open\nh,fine\n'
    rows, tally = from_csv(data)
    assert [row.text for row in rows] == ["two\nlines", '5" wide', "fine"]
    assert tally.bad == [
        (4, "1 fields where the header has 2"),
        (5, "text after a closing quote"),
        (6, "not UTF-8"),
        (7, "empty label"),
        (8, "empty text"),
        (10, "a quote that is not closed"),
    ]


def test_csv_row_beyond_the_limit() -> None:
    rows, tally = from_csv(b"label,text\na," + b"x" * MAX_ROW_BYTES + b"\nb,y\n")
    assert ([row.text for row in rows], tally.bad) == (["y"], [(2, "more than 1 MiB")])


def test_csv_names_the_columns_there_are() -> None:
    with pytest.raises(
        DataError, match=r"x\.csv has no column 'text' in its header: it has 'label', 'body'\. Set data\.text_column"
    ):
        from_csv(b"label,body\na,b\n")
    with pytest.raises(DataError, match="more than one column 'label'"):
        from_csv(b"label,text,label\na,b,c\n")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.lists(st.text(alphabet='ab",\n ', max_size=6), min_size=1, max_size=4), min_size=1, max_size=3))
def test_csv_fields_are_those_of_the_standard_library(table: list[list[str]]) -> None:
    for record in table:
        out = io.StringIO()
        csv.writer(out, lineterminator="", quoting=csv.QUOTE_ALL).writerow(record)
        assert fields_of(out.getvalue()) == record


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r\n", b" ", b"\xff"]), max_size=40).map(b"".join))
def test_csv_takes_any_bytes(data: bytes) -> None:
    rows, tally = from_csv(b"label,text\n" + data)
    assert len(rows) + tally.bad_rows + tally.blank <= tally.lines


def test_json_lines_and_array_give_the_same_rows() -> None:
    records = [{"label": "x", "text": " é "}, {"text": "b", "label": 2, "more": [1]}, {"label": True, "text": "c"}]
    expected = [Row(("x",), "é"), Row(("2",), "b"), Row(("true",), "c")]
    as_lines = "\n".join(json.dumps(record) for record in records)
    assert from_json(as_lines.encode())[0] == expected
    assert from_json(("\ufeff" + as_lines).encode())[0] == expected
    assert from_json(json.dumps(records, indent=2).encode())[0] == expected
    assert from_json(b" [ ] ")[0] == []


def test_json_bad_rows() -> None:
    rows, tally = from_json(
        b'{"label": "x"}\n[1]\n{"label": "x", "text": 5}\n{bad\n\n{"label": null, "text": "t"}\n'
        b'{"label": "x", "text": "\\ud800"}\n{"label": ["x"], "text": "t"}\n{"label": "x", "text": "ok"}'
    )
    assert rows == [Row(("x",), "ok")]
    assert [line for line, _ in tally.bad] == [1, 2, 3, 4, 6, 7, 8]
    reasons = [reason for _, reason in tally.bad]
    assert reasons[0] == "no column 'text', it has 'label'"
    assert reasons[1:3] == ["not a JSON object", "the text is a int, not a string"]
    assert reasons[3].startswith("not JSON: ")
    assert reasons[4:] == ["empty label", "not UTF-8", "the label is a list: use model.task multi-label"]


def test_json_array_lines_bad_bytes_and_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 7)
    long_text = b"x" * MAX_ROW_BYTES
    rows, tally = from_json(
        b'[\n {"label": "a", "text": "t"},\n {"label": "b", "text": "\xff"},\n 12,\n {"label": "c", "text": "'
        + long_text
        + b'"}\n]'
    )
    assert rows == [Row(("a",), "t")]
    assert tally.bad == [(3, "not UTF-8"), (4, "not a JSON object"), (5, "more than 1 MiB")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'[{"label": 1}', "line 1: it ends inside the array"),
        (b'[{"label": 1}\n{"a": 2}]', "line 2: expected ',' or ']', got '{'"),
        (b'[{"label": 1}] {}', "line 1: something follows the array"),
        (b'[\n{"label" 1}]', "line 2: Expecting"),
        (b"[", "line 1: it ends inside the array"),
    ],
)
def test_json_broken_arrays_name_the_line(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"x.json is not a valid JSON array at {reason[:6]}") as caught:
        from_json(data)
    assert reason in str(caught.value)


def test_json_many_labels() -> None:
    assert from_json(b'{"label": ["b", "a", "b", 1], "text": "t"}\n{"label": "c|a", "text": "u"}', MANY)[0] == [
        Row(("1", "a", "b"), "t"),
        Row(("a", "c"), "u"),
    ]
    assert from_json(b'{"label": [], "text": "t"}', MANY)[1].bad == [(1, "empty label")]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"{", b"}", b"[", b"]", b'"label"', b":", b'"a"', b",", b"1", b"\n", b"\xff", b'"text"']), max_size=30
    ).map(b"".join)
)
def test_json_takes_any_bytes(data: bytes) -> None:
    try:
        rows, tally = from_json(data)
    except DataError:
        assert is_array(data)
    else:
        assert len(rows) <= max(tally.lines, 1) * len(data)


def write_parquet(path: Path, labels: pa.Array, texts: pa.Array, rows: int = 2) -> Path:
    pq.write_table(pa.table({"label": labels, "text": texts}), path, row_group_size=rows)
    return path


def from_parquet(path: Path, columns: Columns = COLUMNS) -> tuple[list[Row], list[Tally]]:
    with path.open("rb") as file:
        tallies = [Tally() for _ in range(row_groups_in(file, path.name, columns.named))]
        rows = (
            rows_of(cell_records(rows_in(file, group, columns.names), tally), columns, tally)
            for group, tally in enumerate(tallies)
        )
        return [row for rows_of_group in rows for row in rows_of_group], tallies


def test_parquet_by_row_group(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.array([1, 2, None]), pa.array([" a ", "b", "c"]))
    rows, tallies = from_parquet(path)
    assert rows == [Row(("1",), "a"), Row(("2",), "b")]
    assert [(tally.lines, tally.bad) for tally in tallies] == [(2, []), (1, [(1, "empty label")])]


def test_parquet_label_types_are_one_label(tmp_path: Path) -> None:
    for number, labels in enumerate(
        (pa.array(["1", "2"]), pa.array([1, 2], pa.int8()), pa.array([1.0, 2.0]), pa.array(["1", "2"]).dictionary_encode())
    ):
        rows, _ = from_parquet(write_parquet(tmp_path / f"{number}.parquet", labels, pa.array(["a", "b"])))
        assert [row.labels for row in rows] == [("1",), ("2",)]


def test_parquet_bad_cells(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"\xff", b"x" * (MAX_ROW_BYTES + 1), None], pa.binary()).view(pa.string())
    rows, tallies = from_parquet(write_parquet(tmp_path / "a.parquet", pa.array(["x"] * 4), texts, rows=4))
    assert [row.text for row in rows] == ["ok"]
    assert tallies[0].bad == [(2, "not UTF-8"), (3, "more than 1 MiB"), (4, "empty text")]


def test_parquet_list_labels(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.array([["b", "a"], []]), pa.array(["t", "u"]))
    assert from_parquet(path, MANY)[0] == [Row(("a", "b"), "t")]
    assert from_parquet(path)[0] == []


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.array(["x"]), pa.array(["t"]))
    with pytest.raises(DataError, match=r"no column 'body': it has 'label', 'text'\. Set data\.text_column"):
        from_parquet(path, Columns("body", "label", multi_label=False))
    with pytest.raises(DataError, match="column 'text' of type int64: expected text"):
        from_parquet(write_parquet(tmp_path / "b.parquet", pa.array(["x"]), pa.array([1])))
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"c\.parquet is not a readable Parquet file"):
        from_parquet(tmp_path / "c.parquet")
