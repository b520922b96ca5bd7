"""With data.show_text false no text of the data is in an error, a log, a list of bad rows or a data card."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.scan import scan
from ts4s_core.errors import DataError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import Settings, load_settings

WORD = "confidential"
BAD = {
    "tsv": f"a\tfine {WORD}\nno tab {WORD}\n\t{WORD}\n{WORD}\t\n".encode() + b"x\t\xff" + WORD.encode() + b"\n",
    "csv": f'label,text\na,fine {WORD}\nb\n{WORD},"x"{WORD}\n,{WORD}\nc,"{WORD}\n'.encode(),
    "json": f'{{"label": "a", "text": "fine"}}\n{{"{WORD}": 1}}\n{WORD}\n["{WORD}"]\n{{"label": [], "text": "x"}}\n'.encode(),
}


def settings_of(path: Path, *, show_text: bool) -> Settings:
    return load_settings({"data": {"source": str(path), "show_text": show_text}})


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_told_without_their_text(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(BAD[kind])
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=r"of \d rows are bad") as raised:
        scan(settings_of(path, show_text=False), LocalEngine())
    assert WORD not in str(raised.value)
    assert WORD not in caplog.text


def test_header_that_is_missing_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"a,{WORD} one\nb,{WORD} two\n")
    with pytest.raises(DataError, match=r"has no column 'label' in its header: it has 2 others \(data\.show_text is false\)"):
        scan(settings_of(path, show_text=False), LocalEngine())
    with pytest.raises(DataError, match=WORD):
        scan(settings_of(path, show_text=True), LocalEngine())


@pytest.mark.parametrize("show_text", [True, False])
def test_prediction_tells_no_more(show_text: bool, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"a,{WORD} one\n")
    (tmp_path / "rows.json").write_text(json.dumps({WORD: 1}))
    settings = [settings_of(tmp_path / name, show_text=show_text) for name in ("rows.csv", "rows.json")]
    sources = [open_texts(one.data, one.storage, LocalEngine(), slots=1) for one in settings]
    with pytest.raises(DataError, match="has no column 'text'") as raised:
        list(sources[0].read(sources[0].splits[0]))
    assert (WORD in str(raised.value)) == show_text
    (row,) = sources[1].read(sources[1].splits[0])
    assert (WORD in str(row.reason)) == show_text
