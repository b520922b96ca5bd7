"""A folder of data: nothing of it is left out without a word."""

from __future__ import annotations

import functools
import gzip
import http.server
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.rows import Row, Tally
from ts4s_core.data.listing import NO_VALUE, refuse_remote_tables
from ts4s_core.data.source_snapshot import take_snapshot
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError, SourceError
from ts4s_core.prediction.source_rows import TextRow, open_texts
from ts4s_core.settings import DataSettings, StorageSettings


def settings_of(source: object, **data: object) -> DataSettings:
    return DataSettings.model_validate({"source": str(source), **data})


def rows(source: object, **data: object) -> list[Row]:
    opened = open_source(settings_of(source, **data), StorageSettings(), LocalEngine())
    return [row for split in opened.splits for row in opened.read(split, Tally())]


def texts(source: object, **data: object) -> list[str]:
    return [row.text for row in rows(source, **data)]


def predicted(source: object, **data: object) -> list[TextRow]:
    opened = open_texts(settings_of(source, **data), StorageSettings(), LocalEngine(), slots=1)
    return [row for part in opened.splits for row in opened.read(part)]


def put(path: Path, *found: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"x\t{text}\n" for text in found))
    return path


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    put(tmp_path / "data/2025/a.tsv", "real")
    put(tmp_path / "elsewhere/b.tsv", "linked")
    put(tmp_path / "elsewhere/deep/c.tsv", "deep")
    (tmp_path / "data/2024").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/latest").symlink_to("2025")
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path / "data")
    assert sorted(texts(tmp_path / "data")) == ["deep", "linked", "real"]
    assert [row.text for row in predicted(tmp_path / "data")] == texts(tmp_path / "data")
    assert sorted(texts(f"{tmp_path}/data/20*")) == ["deep", "linked", "real"]
    assert sorted(texts(f"{tmp_path}/data/*/*.tsv")) == ["linked", "real", "real"]
    (tmp_path / "whole").symlink_to(tmp_path / "data")
    assert sorted(texts(tmp_path / "whole")) == ["deep", "linked", "real"]
    assert take_snapshot(settings_of(tmp_path / "data"), StorageSettings()).files == 3
    put(tmp_path / "elsewhere/b.tsv", "changed")
    assert take_snapshot(settings_of(tmp_path / "data"), StorageSettings()).size > 0


def to_nothing(folder: Path) -> None:
    (folder / "odd.tsv").symlink_to(folder / "gone.tsv")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "odd.tsv")


def a_loop(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "odd")


@pytest.mark.parametrize("make", [to_nothing, a_pipe, a_loop])
@pytest.mark.parametrize("glob", ["", "/*"])
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, make: Callable[[Path], None], glob: str) -> None:
    put(tmp_path / "a.tsv", "fine")
    make(tmp_path)
    with pytest.raises(SourceError, match="odd"):
        texts(f"{tmp_path}{glob}")


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder that everybody may read, while this process is not the superuser."""
    if os.geteuid():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("glob", ["", "/*", "/*/*.tsv"])
def test_a_folder_without_rights_is_refused_by_name(somebody: Path, glob: str) -> None:
    put(somebody / "open/a.tsv", "fine")
    put(somebody / "locked/b.tsv", "hidden")
    (somebody / "locked").chmod(0o000)
    if not os.geteuid():
        os.seteuid(65_534)
    try:
        with pytest.raises(SourceError, match=r"locked cannot be read: access denied"):
            texts(f"{somebody}{glob}")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (somebody / "locked").chmod(0o755)


@pytest.mark.parametrize("odd", ["b.tsv.bak", "b.tsv~", "b.tsv.1", "b.tsv_old", "b", "b.tsv (copy)", "b.xlsx"])
def test_a_name_with_an_odd_ending_is_refused_by_name(tmp_path: Path, odd: str) -> None:
    put(tmp_path / "a.tsv", "fine")
    put(tmp_path / odd, "odd")
    with pytest.raises(SourceError) as caught:
        texts(tmp_path)
    assert f"1 of other endings: {tmp_path}/{odd}" in str(caught.value)
    with pytest.raises(SourceError):
        predicted(tmp_path)
    assert texts(f"{tmp_path}/*.tsv") == ["fine"]


def test_notes_and_files_of_other_formats_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.tsv", "fine")
    put(tmp_path / "_SUCCESS")
    put(tmp_path / "_temporary/0/b.tsv", "half written")
    put(tmp_path / "README", "?")
    put(tmp_path / "more.csv", "?")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path, format="tsv") == ["fine"]
    assert "2 files are not tsv and are left out" in caplog.text
    assert texts(f"{tmp_path}/*", format="tsv") == ["fine"]


def delta(folder: Path) -> str:
    put(folder / "_delta_log/00000000000000000000.json")
    return "a Delta table"


def iceberg(folder: Path) -> str:
    put(folder / "metadata/v1.metadata.json")
    return "an Iceberg table"


def hudi(folder: Path) -> str:
    put(folder / ".hoodie/hoodie.properties")
    return "a Hudi table"


def stream(folder: Path) -> str:
    put(folder / "_spark_metadata/0")
    return "what Spark's streaming wrote"


@pytest.mark.parametrize("make", [delta, iceberg, hudi, stream])
def test_the_folder_of_a_table_format_is_refused_by_name(tmp_path: Path, make: Callable[[Path], str]) -> None:
    table = tmp_path / "lake/news"
    put(table / "data/day=1/part-0.tsv", "removed long ago")
    put(table / "day=2/part-0.tsv", "still there")
    kind = make(table)
    for source in (table, tmp_path / "lake", table / "data", table / "data/day=1", table / "day=2", f"{table}/day=*/*.tsv"):
        for reader in (texts, predicted):
            with pytest.raises(SourceError, match=f"is {kind} .*Read it by its own reader"):
                reader(source)
    names = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(SourceError, match=f"is {kind} "):
        refuse_remote_tables(names, folder=str(tmp_path), shown="s3://lake")


def test_a_folder_called_metadata_is_no_table(tmp_path: Path) -> None:
    put(tmp_path / "metadata/a.tsv", "fine")
    put(tmp_path / "data/a.tsv", "too")
    assert texts(tmp_path) == ["too", "fine"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_partition_columns_are_columns(tmp_path: Path, kind: str) -> None:
    for label, day, texts_of in (("sport", "1", ["a", "b"]), ("world%20news", "2", ["c"]), (NO_VALUE, "3", ["d"])):
        path = tmp_path / f"day={day}/label={label}/part-0.{kind}"
        path.parent.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.table({"text": texts_of, "n": [1] * len(texts_of)}), path)
        elif kind == "csv":
            path.write_text("n,text\n" + "".join(f"1,{text}\n" for text in texts_of))
        else:
            path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts_of))
    expected = [Row(("sport",), "a"), Row(("sport",), "b"), Row(("world news",), "c")]
    assert rows(tmp_path) == expected
    assert rows(f"{tmp_path}/*/*/*.{kind}") == expected
    found = predicted(tmp_path, id_column="day")
    assert [(row.text, row.id) for row in found] == [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")]
    assert [row.text for row in predicted(tmp_path / "day=1/label=sport")] == ["a", "b"]
    if kind != "jsonl":
        with pytest.raises(DataError, match="no column 'label'"):
            rows(tmp_path / "day=1/label=sport")


class Web(http.server.SimpleHTTPRequestHandler):
    """Whole files alone, as many servers give them; of ``/sizeless`` not even the size."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is theirs."""

    def send_header(self, keyword: str, value: str) -> None:
        if not (keyword == "Content-Length" and "sizeless" in self.path):
            super().send_header(keyword, value)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tsv.gz", "rows.parquet"])
def test_a_file_of_the_web_is_read_or_refused_by_name(tmp_path: Path, web: str, name: str) -> None:
    found = [f"text {number}" for number in range(2_000)]
    put(tmp_path / "rows.tsv", *found)
    (tmp_path / "rows.tsv.gz").write_bytes(gzip.compress((tmp_path / "rows.tsv").read_bytes()))
    pq.write_table(pa.table({"label": ["x"] * 2_000, "text": found}), tmp_path / "rows.parquet", row_group_size=700)
    shutil.copy(tmp_path / name, tmp_path / f"sizeless-{name}")
    assert texts(f"{web}/{name}") == found
    assert [row.text for row in predicted(f"{web}/{name}")] == found
    with pytest.raises(SourceError, match="expected a server that gives the file's size, got none"):
        texts(f"{web}/sizeless-{name}")
    with pytest.raises(SourceError, match=r"none\.tsv does not exist"):
        texts(f"{web}/none.tsv")
