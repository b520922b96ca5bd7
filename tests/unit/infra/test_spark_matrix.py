"""Rows of the matrix of Sparks and Pythons: what may not differ, and the table of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "infra"))

from test_matrix import BEGIN, END, PAGE, RESULTS, check, table


def row(spark: str, *, torch: str = "2.13.0", weights: str = "aa", left: tuple[str, ...] = ()) -> dict[str, Any]:
    steps = {"weights_sha256": weights, "predicted": 40, "left": list(left)}
    kind = {"spark": spark, "python": "3.11.7", "way": "classic", "java": 17, "instructions": "AVX2"}
    return {**kind, "libraries": {"torch": torch}, "steps": steps}


def test_sparks_beside_one_set_of_libraries_have_one_hash():
    check([row("3.5.9"), row("4.3.0"), row("4.3.0", torch="2.14.1", weights="bb")])
    said = r"steps weights_sha256: expected aa, as 3\.5 3\.11 classic Java 17 had it, got bb of 4\.3 "
    with pytest.raises(SystemExit, match=said):
        check([row("3.5.9"), row("4.3.0", weights="bb")])


def test_what_a_run_leaves_behind_is_refused():
    with pytest.raises(SystemExit, match=r"steps: expected nothing left .*got .*kept\.ts4s-tmp-1"):
        check([row("3.5.9", left=("kept.ts4s-tmp-1",))])


def test_the_kept_rows_pass_and_are_the_page_s_table():
    """Mend the page with: python infra/test_matrix.py --table."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    check(rows)
    assert len({(found["spark"], found["way"]) for found in rows}) > 1
    assert PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0] == table()
