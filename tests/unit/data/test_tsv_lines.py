from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.data.formats import lines as lines_module
from ts4s_core.data.formats.lines import lines_between
from ts4s_core.data.formats.rows import MAX_ROW_BYTES, Columns, Row, Tally, rows_of
from ts4s_core.data.formats.tsv import records

COLUMNS = Columns("text", "label", multi_label=False)
MANY = Columns("text", "label", multi_label=True)
TSV_BYTES = st.lists(
    st.sampled_from(
        [b"a", b"\t", b"\n", b"\r\n", b" ", b"\xef\xbb\xbf", b"\xff", "ñ".encode(), b"\x00", "\u2028".encode(), b"|"]
    ),
    max_size=60,
).map(b"".join)


def parsed(data: bytes, columns: Columns = COLUMNS) -> tuple[list[Row], Tally]:
    tally = Tally()
    return list(rows_of(records(lines_between(io.BytesIO(data), 0, None), tally), columns, tally)), tally


def test_the_plain_form() -> None:
    rows, tally = parsed("pos\tmuy bueno\nneg\tmalo, con años\n".encode())
    assert rows == [Row(("pos",), "muy bueno"), Row(("neg",), "malo, con años")]
    assert (tally.lines, tally.blank, tally.bad) == (2, 0, [])


def test_mark_crlf_blank_lines_and_a_last_line_without_an_end() -> None:
    rows, tally = parsed(b"\xef\xbb\xbfa\tone\r\n\r\n  \t \n\nb\ttwo")
    assert rows == [Row(("a",), "one"), Row(("b",), "two")]
    assert (tally.lines, tally.blank, tally.bad_rows) == (5, 3, 0)


def test_first_tab_splits_and_both_cells_are_trimmed() -> None:
    assert parsed(b' a b \t "x"\ty \n')[0] == [Row(("a b",), '"x"\ty')]


def test_only_newlines_end_a_line() -> None:
    assert parsed("a\tone\u2028two\x0bthree\x85\n".encode())[0] == [Row(("a",), "one\u2028two\x0bthree")]


def test_every_kind_of_bad_row_with_its_line() -> None:
    data = b"no tab\n\ttext\na\t\n\na\t\xff\nok\tfine\n" + b"a\t" + b"x" * (MAX_ROW_BYTES - 1) + b"\nok\tlast\n"
    rows, tally = parsed(data)
    assert [row.text for row in rows] == ["fine", "last"]
    assert tally.bad == [
        (1, "no tab between label and text"),
        (2, "empty label"),
        (3, "empty text"),
        (5, "not UTF-8"),
        (7, "more than 1 MiB"),
    ]
    assert (tally.bad_rows, tally.blank, tally.lines) == (5, 1, 8)


def test_a_row_of_exactly_one_mib_is_good() -> None:
    rows, tally = parsed(b"a\t" + b"x" * (MAX_ROW_BYTES - 2) + b"\r\n")
    assert (len(rows[0].text), tally.bad) == (MAX_ROW_BYTES - 2, [])


def test_several_labels_in_one_cell() -> None:
    assert parsed(b"b | a|b\ttext\n", MANY)[0] == [Row(("a", "b"), "text")]
    assert parsed(b"b | a|b\ttext\n")[0] == [Row(("b | a|b",), "text")]
    assert parsed(b" | \ttext\n", MANY)[1].bad == [(1, "empty label")]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), TSV_BYTES), st.booleans())
def test_any_bytes_are_rows_blank_or_bad(data: bytes, multi_label: bool) -> None:
    rows, tally = parsed(data, MANY if multi_label else COLUMNS)
    assert len(rows) + tally.blank + tally.bad_rows == tally.lines
    assert tally.lines == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    for row in rows:
        assert row.text == row.text.strip() != ""
        assert all(label == label.strip() != "" for label in row.labels)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(TSV_BYTES, st.integers(1, 9), st.integers(1, 7))
def test_splits_give_the_lines_of_the_whole(data: bytes, size: int, chunk: int) -> None:
    whole = list(lines_between(io.BytesIO(data), 0, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        pieces = [
            line
            for start in range(0, len(data), size)
            for line in lines_between(io.BytesIO(data), start, min(start + size, len(data)))
        ]
    assert pieces == whole


def test_a_line_beyond_the_limit_is_held_only_up_to_it() -> None:
    data = b"a\t" + b"x" * (5 * MAX_ROW_BYTES) + b"\nb\ty\n"
    first, second = lines_between(io.BytesIO(data), 0, None)
    assert MAX_ROW_BYTES < len(first) < 2.1 * MAX_ROW_BYTES
    assert second == b"b\ty"
