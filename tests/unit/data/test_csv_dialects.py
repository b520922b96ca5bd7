"""csv as other programs write it: the rows that were written, or a refusal; and what a quote swallows counts in lines."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.csv_rows import CsvReader
from ts4s_core.data.formats.lines import lines_between
from ts4s_core.data.formats.rows import Columns, Dialect, Row, Tally, row_of, rows_of
from ts4s_core.data.scan import scan
from ts4s_core.errors import DataError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, Settings, StorageSettings

Table = list[tuple[str, str]]
CELLS = st.text(alphabet=st.sampled_from("ab\\\",;\n\r\t '|é日!"), max_size=8) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)
TABLES = st.lists(st.tuples(CELLS, CELLS), max_size=6)
SPARK, PYTHON = Dialect("\\"), Dialect("\\", everywhere=True)


def read(data: bytes, dialect: Dialect = Dialect()) -> tuple[list[Row], Tally]:  # noqa: B008  it is frozen
    columns, tally = Columns("text", "label", multi_label=False, dialect=dialect), Tally()
    reader = CsvReader("x.csv", columns.named, dialect=dialect, show_text=True)
    return list(rows_of(reader.read(lines_between(io.BytesIO(data), 0, None), tally, by_label=True), columns, tally)), tally


def after_the_rules(table: Table) -> list[Row]:
    """The rows of a table, trimmed, without the bad ones; a line end inside quotes is one sign, however it was written."""
    rows = (
        row_of(*(cell.replace("\r\n", "\n") for cell in cells), Columns("text", "label", multi_label=False)) for cells in table
    )
    return [row for row in rows if isinstance(row, Row)]


def agrees(data: bytes, table: Table, dialect: Dialect) -> None:
    """The rows are those that were written, or something was refused: a line, or the whole file."""
    try:
        rows, tally = read(data, dialect)
    except DataError:
        return
    expected = [_with_one_line_end(row) for row in after_the_rules(table)]
    empty = sum(not (label.strip() and text.strip()) for label, text in table)
    rows = [_with_one_line_end(row) for row in rows]
    assert rows == expected or tally.bad_rows > empty, (data, rows, tally.bad)


def _with_one_line_end(row: Row) -> Row:
    return Row(tuple(label.replace("\r\n", "\n") for label in row.labels), row.text.replace("\r\n", "\n"))


def written(table: Table, **options: Any) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, **options)
    writer.writerow(("label", "text"))
    writer.writerows(table)
    return sink.getvalue().encode()


@settings(deadline=None, max_examples=150)
@given(TABLES, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), st.sampled_from(["\n", "\r\n"]))
@example([("a", 'x"'), ("b", '"')], csv.QUOTE_MINIMAL, "\n")
def test_csv_of_python(table: Table, quoting: int, end: str) -> None:
    data = written(table, quoting=quoting, lineterminator=end)
    assert read(data)[0] == after_the_rules(table)


@settings(deadline=None, max_examples=150)
@given(TABLES, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]), st.booleans())
@example([("a", "\\"), ("b", '\\"'), ("c", "x\ny")], csv.QUOTE_NONE, False)
@example([("a", 'he said "x"')], csv.QUOTE_MINIMAL, False)
@example([(";", ";\r\r\n;")], csv.QUOTE_MINIMAL, False)
@example([(";\r\n;", ";")], csv.QUOTE_NONE, False)
def test_csv_of_python_with_an_escape(table: Table, quoting: int, doubled: bool) -> None:
    data = written(table, quoting=quoting, escapechar="\\", doublequote=doubled, lineterminator="\n")
    agrees(data, table, PYTHON)
    if quoting != csv.QUOTE_NONE:
        assert read(data, PYTHON)[0] == after_the_rules(table)


@settings(deadline=None, max_examples=60)
@given(TABLES, st.sampled_from([";", "\t", "|"]))
def test_other_signs_between_fields_are_refused(table: Table, sign: str) -> None:
    with pytest.raises(DataError, match="are apart by"):
        read(written(table, delimiter=sign))


@settings(deadline=None, max_examples=80)
@given(TABLES, st.sampled_from([{}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\r\n"}, {"encoding": "utf-8-sig"}]))
def test_csv_of_pandas(table: Table, options: dict[str, Any]) -> None:
    sink = io.BytesIO()
    pd.DataFrame(table, columns=["label", "text"], dtype="string").to_csv(sink, index=False, **options)
    assert read(sink.getvalue())[0] == after_the_rules(table)


@settings(deadline=None, max_examples=80)
@given(TABLES, st.booleans())
def test_csv_of_pandas_with_an_escape(table: Table, doubled: bool) -> None:
    sink = io.BytesIO()
    frame = pd.DataFrame(table, columns=["label", "text"], dtype="string")
    frame.to_csv(sink, index=False, escapechar="\\", doublequote=doubled)
    assert read(sink.getvalue(), PYTHON)[0] == after_the_rules(table)


POLARS: list[dict[str, Any]] = [
    {},
    {"quote_style": "always"},
    {"quote_style": "non_numeric"},
    {"line_terminator": "\r\n"},
    {"include_bom": True},
]


@settings(deadline=None, max_examples=80)
@given(TABLES, st.sampled_from(POLARS))
def test_csv_of_polars(table: Table, options: dict[str, Any]) -> None:
    import polars as pl  # the other tests run where the newest lock is not installed yet

    sink = io.BytesIO()
    pl.DataFrame(table, schema={"label": pl.String, "text": pl.String}, orient="row").write_csv(sink, **options)
    assert read(sink.getvalue())[0] == after_the_rules(table)


def by_spark(table: Table, *, all_quoted: bool, escape: str = "\\") -> bytes:
    """As Spark's writer (univocity) does: checked against Spark itself in the integration tests."""

    def field(cell: str) -> str:
        cell = cell.strip(" \t")
        if not (all_quoted or cell == "" or set(cell) & set('",\n\r')):
            return cell
        doubled = cell.replace(escape, escape * 2) if escape == "\\" else cell
        return '"' + doubled.replace('"', f'{escape}"') + '"'

    lines = [",".join(f'"{name}"' if all_quoted else name for name in ("label", "text"))]
    return "".join(f"{line}\n" for line in [*lines, *(",".join(map(field, row)) for row in table)]).encode()


@settings(deadline=None, max_examples=150)
@given(TABLES, st.booleans())
@example([("a", 'say "hi"'), ("b", "a\\"), ("c", ',\\"\\')], False)
def test_csv_of_spark(table: Table, all_quoted: bool) -> None:
    assert read(by_spark(table, all_quoted=all_quoted), SPARK)[0] == after_the_rules(table)
    assert read(by_spark(table, all_quoted=all_quoted, escape='"'))[0] == after_the_rules(table)


def test_an_escape_that_is_not_set_is_found_and_named() -> None:
    table = [("sport", f'he said "text {number}", twice') for number in range(5)]
    rows, tally = read(by_spark(table, all_quoted=False))
    assert rows == []
    assert all("a backslash stands before a quote: if it escapes the quote" in reason for _, reason in tally.bad)
    assert r"set data.csv_escape to \ "[:-1] in tally.bad[0][1]
    rows, tally = read(b'label,text\nsport,he said \\"x\\"\nsport,C:\\dir\n', SPARK)
    assert [row.text for row in rows] == ["C:\\dir"]
    assert "set data.csv_escape_unquoted" in tally.bad[0][1]


def lines_of(count: int) -> list[str]:
    return [f"{('sport', 'money', 'world')[number % 3]},text number {number}" for number in range(count)]


def scanned(path: Path, **data: object) -> Any:
    given_data = DataSettings.model_validate({"source": str(path), **data})
    return scan(Settings(data=given_data, storage=StorageSettings(uri=str(path.parent / "store"))), LocalEngine())


def opened_and_closed(lines: list[str], at: int, until: int) -> list[str]:
    lines[at] = lines[at].replace(",", ',"')
    lines[until] += '"'
    return lines


def never_closed(lines: list[str], at: int, until: int) -> list[str]:
    lines[at] = lines[at].replace(",", ',"')
    return lines


def closed_by_the_next_quote(lines: list[str], at: int, until: int) -> list[str]:
    lines[at] = lines[at].replace(",", ',"')
    lines[until] = lines[until].replace(",", ',"') + '"'
    return lines


@pytest.mark.parametrize(("at", "until"), [(539, 1_999), (3, 40), (1_200, 1_300)])
@pytest.mark.parametrize("how", [opened_and_closed, closed_by_the_next_quote])
def test_lines_that_a_quote_swallowed_count(
    tmp_path: Path, how: Callable[[list[str], int, int], list[str]], at: int, until: int
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("label,text\n" + "\n".join(how(lines_of(2_000), at, until)) + "\n")
    with pytest.raises(DataError, match=rf"{until - at + 1} of 2001 lines are lost to 1 bad rows.*rows\.csv:{at + 2} "):
        scanned(path)
    assert scanned(path, max_bad_fraction=0.9).rows == 2_000 - (until - at + 1)
    texts = open_texts(DataSettings(source=str(path)), StorageSettings(), LocalEngine(), slots=1)
    found = [row for part in texts.splits for row in texts.read(part)]
    assert len(found) == 2_000
    assert sum(row.reason is not None for row in found) == until - at + 1
    assert f"line {until + 2}: " in str(found[until].reason)


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("label,text\n" + "\n".join(never_closed(lines_of(2_000), 540, 0)) + "\n")
    found = scanned(path)
    assert (found.rows, found.bad_rows, [str(row) for row in found.bad]) == (1_999, 1, [f"{path}:542 a quote that is not closed"])


def test_many_short_swallows_are_not_taken_for_rows(tmp_path: Path) -> None:
    lines = lines_of(2_000)
    for at in range(100, 1_900, 30):
        opened_and_closed(lines, at, at + 6)
    (tmp_path / "rows.csv").write_text("label,text\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="420 of 2001 lines are lost to 60 bad rows"):
        scanned(tmp_path / "rows.csv")


def test_texts_of_many_lines_are_rows_and_very_many_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    poem = "\n".join(f"line {number}, of a poem" if number % 3 else f"line {number}" for number in range(15))
    code = "\n".join(f"    call({number}, 'x', 'y', z)" for number in range(130))
    lines = [f'{("a", "b")[number % 2]},"{poem} {number}"' for number in range(100)] + [f'a,"{code}"']
    (tmp_path / "rows.csv").write_text("label,text\n" + "\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING):
        assert scanned(tmp_path / "rows.csv").rows == 101
    assert "rows.csv:1502 is a row of 130 lines: if it should be shorter, a quote is not closed in its place" in caplog.text


def test_bad_rows_count_as_rows_too(tmp_path: Path) -> None:
    """Long texts do not hide that every tenth row is bad."""
    text = "\n".join(["a line"] * 30)
    lines = [f'{("a", "b")[number % 2]},"{text} {number}"' if number % 10 else "nothing" for number in range(200)]
    (tmp_path / "rows.csv").write_text("label,text\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="20 of 200 rows are bad"):
        scanned(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("label;text", "are apart by ';'"),
        ("label\ttext", r"are apart by '\\t'.*or set data.format tsv"),
        ("label,text\rsport,one\rmoney,two", "its line ends are"),
        ("sport,one", r"A file without a header needs one \(in Spark: option\('header', True\)\)"),
    ],
)
def test_headers_that_are_none(header: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(f"{header}\nsport,two\n".encode())


@pytest.mark.parametrize("value", ["\\", "!", "'", "", "~"])
def test_escapes_that_may_be_set(value: str) -> None:
    assert DataSettings(csv_escape=value).csv_escape == value


@pytest.mark.parametrize("value", ['"', ",", "ab", "\n", "a", " "])
def test_escapes_that_may_not(value: str) -> None:
    with pytest.raises(ValueError, match="csv_escape"):
        DataSettings(csv_escape=value)
