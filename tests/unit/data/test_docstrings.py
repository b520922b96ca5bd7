from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats import docstrings
from ts4s_core.data.scan import scan
from ts4s_core.errors import SourceError
from ts4s_core.settings import Settings

NAMES = {
    "matplotlib": "matplotlib|mpl|pyplot|plt",
    "networkx": "networkx|nx",
    "prefect": "prefect",
    "sqlalchemy": "sqlalchemy|sa",
}


@pytest.fixture(scope="module")
def timed() -> tuple[list[tuple[str, str]], float]:
    started = time.process_time()
    pairs = docstrings.read_docstrings(docstrings.DEFAULT_LIBRARIES, rows=docstrings.DEFAULT_ROWS)
    return pairs, time.process_time() - started


@pytest.fixture
def pairs(timed: tuple[list[tuple[str, str]], float]) -> list[tuple[str, str]]:
    return timed[0]


def test_defaults_are_balanced_distinct_and_quick(timed: tuple[list[tuple[str, str]], float]) -> None:
    pairs, cpu_s = timed
    assert cpu_s < 20
    counts = Counter(label for label, _ in pairs)
    assert len(counts) >= 4
    assert (sum(counts.values()), min(counts.values())) == (3_000, 3_000 // len(counts))
    assert len({text for _, text in pairs}) == 3_000
    assert all(docstrings.MIN_CHARS <= len(text) <= docstrings.MAX_CHARS for _, text in pairs)


def test_no_text_names_its_library(pairs: list[tuple[str, str]]) -> None:
    for label, text in pairs:
        assert label.lower() not in text.lower()
        assert not re.search(rf"(?<![a-z])({NAMES[label]})(?![a-z])", text.lower()), text
        assert text == " ".join(text.split())


def test_the_choice_is_the_same_every_time_and_fewer_rows_are_a_part_of_more() -> None:
    libraries = ("fsspec", "networkx")
    few, many = (docstrings.read_docstrings(libraries, rows=rows) for rows in (21, 60))
    assert docstrings.read_docstrings(libraries, rows=60) == many
    assert Counter(label for label, _ in few) == {"fsspec": 11, "networkx": 10}
    assert set(few) < set(many)


def test_names_are_cut_out() -> None:
    names = docstrings.names_pattern("scikit-learn", ["sklearn"])
    assert (
        docstrings.cleaned("See sklearn.svm.SVC, Scikit-Learn's\n  own; MySKLEARNThing", names) == "See svm.SVC, 's own; MyThing"
    )
    short = docstrings.names_pattern("rich", ["rich"])
    assert docstrings.cleaned("An enriched rich.console of Rich", short) == "An enriched console of"
    assert docstrings.cleaned("word " * 200, short).split() == ["word"] * (docstrings.MAX_CHARS // 5)


def test_libraries_by_name() -> None:
    assert docstrings.libraries_of(" Scikit_Learn , fsspec,fsspec") == ("fsspec", "scikit-learn")
    assert docstrings.libraries_of("") == docstrings.DEFAULT_LIBRARIES
    assert docstrings.read_docstrings(("yaml",), rows=3)[0][0] == "yaml"
    with pytest.raises(SourceError, match=r"data\.source no-such-library is not an installed library: .*separated by commas"):
        docstrings.read_docstrings(("no-such-library",), rows=3)


def test_as_a_source(settings_for: Callable[..., Settings]) -> None:
    found = scan(settings_for("networkx,fsspec", format="docstrings", max_rows=80), LocalEngine())
    assert found.labels == ("fsspec", "networkx")
    assert (found.rows, found.bad_rows) == (80, 0)
    assert {label: sum(rows[label] for rows in found.label_rows.values()) for label in found.labels} == {
        "fsspec": 40,
        "networkx": 40,
    }
