from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.scan import scan
from ts4s_core.data.sides import SIDES, SidePlan
from ts4s_core.errors import DataError, InputError
from ts4s_core.settings import Settings

Settle = Callable[..., Settings]
GOOD = "".join(f"{'ab'[number % 2]}\ttext number {number}\n" for number in range(100))


def scanned(path: Path, content: str | bytes, settle: Settle, **given_settings: object):  # type: ignore[no-untyped-def]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return scan(settle(path, **given_settings), LocalEngine())


def refusal(path: Path, content: str | bytes, settle: Settle, **given_settings: object) -> str:
    with pytest.raises(DataError) as caught:
        scanned(path, content, settle, **given_settings)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing was written
    return str(caught.value)


def test_counts(tmp_path: Path, settings_for: Settle) -> None:
    found = scanned(tmp_path / "a.tsv", "\ufeff" + GOOD.replace("\n", "\r\n") + "\n  \nbad\n", settings_for)
    assert (found.rows, found.lines, found.blank_lines, found.bad_rows) == (100, 103, 2, 1)
    assert found.labels == ("a", "b")
    assert sum(found.sides.values()) == 100
    assert min(found.sides.values()) > 0
    assert [str(row) for row in found.bad] == [f"{tmp_path}/a.tsv:103 no tab between label and text"]
    assert sum(found.label_rows[side]["a"] for side in SIDES) == 50


def test_bad_rows_at_and_above_the_limit(tmp_path: Path, settings_for: Settle) -> None:
    path = tmp_path / "a.tsv"
    assert scanned(path, GOOD.removeprefix("a\ttext number 0\n") + "bad\n", settings_for).bad_rows == 1
    content = b"bad\n" + GOOD.encode() + b"a\t\n\nb\t\xff\n"
    message = refusal(path, content, settings_for)
    assert "3 of 103 rows are bad, more than data.max_bad_fraction 0.01 allows" in message
    for line, reason in ((1, "no tab"), (102, "empty text"), (104, "not UTF-8")):
        assert f"{path}:{line} {reason}" in message
    assert scanned(path, content, settings_for, max_bad_fraction=0.1).bad_rows == 3
    assert "all" not in refusal(path, b"x\n" * 9, settings_for, max_bad_fraction=1.0)


def test_lines_are_exact_over_splits_and_files(tmp_path: Path, settings_for: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts4s_core.data.sources.open_source.__kwdefaults__", {"multi_label": False, "split_bytes": 64})
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text(GOOD + "bad\n\n" + GOOD + "worse\n")
    found = scan(settings_for(tmp_path, max_bad_fraction=0.5), LocalEngine())
    assert len(found.source.splits) > 20
    assert [(Path(row.file).name, row.line) for row in found.bad] == [
        ("a.tsv", 101),
        ("a.tsv", 203),
        ("b.tsv", 101),
        ("b.tsv", 203),
    ]


@pytest.mark.parametrize("content", ["", "\n \n\r\n"])
def test_no_rows(tmp_path: Path, settings_for: Settle, content: str) -> None:
    assert "has no rows: expected at least one row in each of train, validation, test" in refusal(
        tmp_path / "a.tsv", content, settings_for
    )


def test_one_label(tmp_path: Path, settings_for: Settle) -> None:
    message = refusal(tmp_path / "a.tsv", GOOD.replace("b\t", "a\t"), settings_for)
    assert "All 100 rows" in message
    assert "have one label, 'a': expected two labels or more" in message


def test_number_of_classes(tmp_path: Path, settings_for: Settle) -> None:
    for classes in (3, 5):
        message = refusal(tmp_path / "a.tsv", GOOD + "c\tthree\nd\tfour\n", settings_for, classes=classes)
        assert f"model.classes is {classes}, but" in message
        assert "has 4 labels (a, b, c, d): set model.classes 4, or 0" in message
    assert scanned(tmp_path / "a.tsv", GOOD, settings_for, classes=2).labels == ("a", "b")


def test_an_empty_side(tmp_path: Path, settings_for: Settle) -> None:
    message = refusal(tmp_path / "a.tsv", "a\tone\nb\ttwo\n", settings_for, validation_fraction=0.001, test_fraction=0.001)
    for side in ("validation", "test"):
        assert f"The {side} side is empty: expected at least 1 of 2 rows to fall to its share of 0.001, got 0" in message
        assert f"a larger data.{side}_fraction or another data.seed" in message
    message = refusal(tmp_path / "a.tsv", "a\tone\nb\ttwo\n", settings_for, validation_fraction=0.001, test_fraction=0.998)
    assert "The train side is empty" in message


def test_too_many_labels(tmp_path: Path, settings_for: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts4s_core.data.scan.MAX_CLASSES", 50)
    content = "".join(f"label {number}\ttext {number}\n" for number in range(60))
    assert "more than 50 different labels" in refusal(tmp_path / "a.tsv", content, settings_for)


def test_language_model_data_are_not_labelled(tmp_path: Path, settings_for: Settle) -> None:
    assert "language-model" in refusal(tmp_path / "a.tsv", GOOD, settings_for, task="language-model")


def test_labels_are_alphabetical_over_all_sides(tmp_path: Path, settings_for: Settle) -> None:
    found = scanned(tmp_path / "a.tsv", GOOD + "Z\tlone\né\tother\n10\tten\n9\tnine\n", settings_for)
    assert found.labels == ("10", "9", "Z", "a", "b", "é")


def test_max_rows_by_content(tmp_path: Path, settings_for: Settle) -> None:
    lines = GOOD.splitlines(keepends=True)
    mixed = lines[:]
    random.Random(3).shuffle(mixed)
    one, other = (scanned(tmp_path / "a.tsv", "".join(order), settings_for, max_rows=40) for order in (lines, mixed))
    assert (one.rows, one.fingerprint, one.sides) == (40, other.fingerprint, other.sides)
    assert (
        scanned(tmp_path / "a.tsv", GOOD, settings_for, max_rows=100).fingerprint
        == scanned(tmp_path / "a.tsv", GOOD, settings_for).fingerprint
    )
    repeated = scanned(tmp_path / "a.tsv", "".join(lines[:40]) * 50, settings_for, max_rows=1_990)
    assert repeated.rows == 1_990
    assert repeated.selection is not None
    assert repeated.selection.copies == 40


def test_fingerprint_is_over_content_alone(tmp_path: Path, settings_for: Settle) -> None:
    lines = GOOD.splitlines(keepends=True)
    whole = scanned(tmp_path / "a.tsv", GOOD, settings_for).fingerprint
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.tsv").write_text("\n".join(reversed([line.strip() for line in lines[:30]])))
    (folder / "y.tsv").write_text("\n".join(f" {line.strip()} \r\n" for line in lines[30:]))
    assert scan(settings_for(folder), LocalEngine()).fingerprint == whole
    for changed in (
        GOOD + lines[0],
        GOOD.replace("number 7\n", "number x\n"),
        GOOD.replace("a\ttext number 8\n", "b\ttext number 8\n"),
    ):
        assert scanned(tmp_path / "b.tsv", changed, settings_for).fingerprint != whole


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(min_size=1), st.integers(0, 2**32 - 1), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_a_side_hangs_on_text_and_seed(text: str, seed: int, validation: float, test: float) -> None:
    plan = SidePlan(seed, validation, test)
    assert plan.side_of(text) == SidePlan(seed, validation, test).side_of(text)
    if plan.side_of(text) == SIDES.index("test"):  # a larger test side keeps its rows
        assert SidePlan(seed, validation, test + 0.1).side_of(text) == SIDES.index("test")


def test_sides_have_their_shares_and_stay_as_data_grow() -> None:
    plan = SidePlan(5, 0.1, 0.2)
    sides = [plan.side_of(f"text {number}") for number in range(20_000)]
    shares = [sides.count(side) / len(sides) for side in range(3)]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    assert [plan.side_of(f"text {number}") for number in range(100)] == sides[:100]
    assert [SidePlan(6, 0.1, 0.2).side_of(f"text {number}") for number in range(100)] != sides[:100]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=300),
    task=st.sampled_from(["classification", "multi-label"]),
    ending=st.sampled_from(["tsv", "csv", "json", "parquet"]),
)
def test_no_bytes_raise_a_foreign_error(content: bytes, task: str, ending: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from ts4s_core.settings import DataSettings, ModelSettings

    path = tmp_path_factory.getbasetemp() / f"any.{ending}"
    path.write_bytes(content)
    given_settings = Settings(data=DataSettings(source=str(path)), model=ModelSettings.model_validate({"task": task}))
    with contextlib.suppress(InputError):
        assert scan(given_settings, LocalEngine()).rows > 2
