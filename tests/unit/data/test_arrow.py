"""Arrow files and folders of the library datasets, written here as it writes them (checked by hand against datasets 5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.rows import Row, Tally
from ts4s_core.data.scan import scan
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError, InputError, SourceError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, Settings, StorageSettings

FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["north", "south"], "_type": "ClassLabel"},
}
INT = pa.int64()
ROWS = [(0, "one"), (1, "two"), (-1, "no label"), (0, None)]


def write(path: Path, rows: list[tuple[Any, Any]], *, features: dict[str, Any] | None = FEATURES, kind: Any = INT) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features is not None else None
    schema = pa.schema([("label", kind), ("text", pa.string())], metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    labels, texts = zip(*rows, strict=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        table = pa.table([pa.array(labels, kind), pa.array(texts, pa.string())], schema=schema)
        writer.write_table(table, max_chunksize=3)


def saved(folder: Path, rows: list[tuple[Any, Any]], **state: Any) -> Path:
    """A folder as ``save_to_disk`` leaves it."""
    write(folder / "data-00000-of-00001.arrow", rows)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train", **state}), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}), encoding="utf-8")
    return folder


def rows_of(source: Path, **data: Any) -> tuple[list[Row], Tally]:
    opened = open_source(DataSettings(source=str(source), **data), StorageSettings(), LocalEngine())
    tally = Tally()
    return [row for split in opened.splits for row in opened.read(split, tally)], tally


def test_classes_have_their_names_and_rows_without_one_are_bad(tmp_path: Path) -> None:
    rows, tally = rows_of(saved(tmp_path / "set", ROWS))
    assert rows == [Row(("north",), "one"), Row(("south",), "two")]
    assert tally.bad == [(3, "empty label"), (4, "empty text")]


def test_all_splits_of_a_saved_dictionary_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        saved(tmp_path / "sets" / split, [(0, f"of {split}")])
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    assert [row.text for row in rows_of(tmp_path / "sets")[0]] == ["of test", "of train"]
    assert [row.text for row in rows_of(tmp_path / "sets" / "train")[0]] == ["of train"]


def test_arrow_without_the_library_and_feather_are_read_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "rows.arrow", [(3, "three"), (None, "none")], features=None)
    assert rows_of(tmp_path / "rows.arrow")[0] == [Row(("3",), "three")]
    table = pa.table({"label": ["a", "b"], "text": ["x", "y"]})
    pa.feather.write_feather(table, str(tmp_path / "rows.feather"), compression="zstd")
    assert rows_of(tmp_path / "rows.feather")[0] == [Row(("a",), "x"), Row(("b",), "y")]


def test_chosen_rows_beside_the_files_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ROWS, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(SourceError, match=r"with chosen rows beside its files .*flatten_indices\(\)"):
        rows_of(folder)
    (folder / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(SourceError, match=r"state\.json is not what the library datasets writes"):
        rows_of(folder)


@pytest.mark.parametrize("at", [0, 9, 200, 800, 900])
def test_a_cut_or_foreign_file_is_refused_by_name(tmp_path: Path, at: int) -> None:
    write(tmp_path / "whole.arrow", [(number % 2, f"text {number}") for number in range(9)])
    data = (tmp_path / "whole.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(data[:at] or b"label,text\n")
    with pytest.raises(
        InputError, match=r"cut\.arrow (is not a readable Arrow file|cannot be read: Expected to be able to read)"
    ):
        rows_of(tmp_path / "cut.arrow")


def test_columns_are_looked_for_by_name_and_type(tmp_path: Path) -> None:
    write(tmp_path / "rows.arrow", [(0.5, "half")], features=None, kind=pa.float64())
    with pytest.raises(DataError, match="has no column 'words'"):
        rows_of(tmp_path / "rows.arrow", text_column="words")
    with pytest.raises(DataError, match="column 'label' of type double: expected text"):
        rows_of(tmp_path / "rows.arrow", text_column="label", label_column="text")


def test_every_row_comes_out_of_a_prediction(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ROWS)
    source = open_texts(DataSettings(source=str(folder), id_column="label"), StorageSettings(), LocalEngine(), slots=1)
    rows = [row for split in source.splits for row in source.read(split)]
    assert [(row.text, row.id, row.reason) for row in rows] == [
        ("one", "north", None),
        ("two", "south", None),
        ("no label", None, None),
        (None, "north", "null text"),
    ]


def test_the_same_rows_have_the_fingerprint_that_they_have_as_tsv(
    tmp_path: Path, settings_for: Callable[..., Settings], sentences: list[tuple[str, str]]
) -> None:
    names = sorted({label for label, _text in sentences})
    features = {**FEATURES, "label": {"names": names, "_type": "ClassLabel"}}
    write(tmp_path / "rows.arrow", [(names.index(label), text) for label, text in sentences], features=features)
    (tmp_path / "rows.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in sentences), encoding="utf-8")
    found = [scan(settings_for(tmp_path / name), LocalEngine()).fingerprint for name in ("rows.arrow", "rows.tsv")]
    assert found[0] == found[1]
