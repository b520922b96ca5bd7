from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.sources import DataSource, open_source
from ts4s_core.errors import InputError, SettingsError, SourceError
from ts4s_core.settings import DataSettings, StorageSettings


def opened(source: object, *, split_bytes: int = 2**20, **data: object) -> DataSource:
    settings = DataSettings.model_validate({"source": str(source), **data})
    return open_source(settings, StorageSettings(), LocalEngine(), split_bytes=split_bytes)


def texts(source: DataSource) -> list[str]:
    return [row.text for split in source.splits for row in source.read(split, Tally())]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "x\tone\n", "tsv"),
        ("A.TSV", "x\tone\n", "tsv"),
        ("a.csv", "label,text\nx,one\n", "csv"),
        ("a.json", '[{"label": "x", "text": "one"}]', "json"),
        ("a.jsonl", '{"label": "x", "text": "one"}', "json"),
        ("a.ndjson", '{"label": "x", "text": "one"}', "json"),
    ],
)
def test_format_by_ending(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    source = opened(tmp_path / name)
    assert (source.format, texts(source)) == (expected, ["one"])


def test_folder_takes_the_files_of_the_format_in_order(tmp_path: Path) -> None:
    for name, row in (
        ("b.tsv", "2"),
        ("a.tsv", "1"),
        ("sub/c.tsv", "3"),
        ("_SUCCESS", ""),
        (".a.tsv.crc", "bad"),
        ("notes.md", "?"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"x\t{row}\n")
    assert texts(opened(tmp_path)) == ["1", "2", "3"]
    assert texts(opened(f"{tmp_path}/*.tsv")) == ["1", "2"]
    assert texts(opened(f"file://{tmp_path}")) == ["1", "2", "3"]
    assert [split.name for split in opened(tmp_path).splits][2] == f"{tmp_path}/sub/c.tsv"


def test_given_format_takes_files_without_an_ending(tmp_path: Path) -> None:
    (tmp_path / "part-00000").write_text("x\tone\n")
    (tmp_path / "part-00001").write_text("x\ttwo\n")
    assert texts(opened(tmp_path, format="tsv")) == ["one", "two"]
    assert texts(opened(tmp_path / "part-00001", format="tsv")) == ["two"]


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_splits_make_no_difference(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"l\ttext {number}\n" for number in range(50)))
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"label": "l", "text": f"text {number}"}) + "\n" for number in range(50))
    )
    for name in ("a.tsv", "b.jsonl"):
        assert texts(opened(tmp_path / name, split_bytes=size)) == [f"text {number}" for number in range(50)]


def make_files(folder: Path) -> None:
    (folder / "x.xml").write_text("<a/>")
    (folder / "x.txt").write_text("a\tb\n")
    (folder / "mixed").mkdir()
    (folder / "mixed" / "a.tsv").write_text("a\tb\n")
    (folder / "mixed" / "b.csv").write_text("label,text\na,b\n")
    (folder / "empty").mkdir()
    (folder / "bare").mkdir()
    (folder / "bare" / "part-0").write_text("a\tb\n")


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ("none.tsv", {}, "none.tsv does not exist: give a file, a folder, a glob or an s3:// address"),
        ("*.csv", {}, "holds no files"),
        ("empty", {}, "holds no files"),
        ("x.xml", {}, r"unknown: expected one of .tsv (tsv), .csv (csv), .json (json)"),
        ("bare", {}, "got no ending. Set data.format"),
        ("mixed", {}, "its files are csv, tsv. Set data.format"),
        ("x.txt", {}, "If its lines are label<TAB>text, set data.format tsv"),
    ],
)
def test_sources_that_cannot_be_told(tmp_path: Path, source: str, data: dict[str, str], message: str) -> None:
    make_files(tmp_path)
    with pytest.raises(SourceError) as caught:
        opened(tmp_path / source, **data)
    assert message in str(caught.value)


def test_other_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nosuchscheme://bucket/x\.tsv cannot be served: Protocol not known"):
        opened("nosuchscheme://bucket/x.tsv")
    with pytest.raises(SourceError, match="table needs Spark"):
        opened("some.table", format="table")
    with pytest.raises(SourceError, match=r"data\.source is empty: data\.format tsv needs"):
        opened("", format="tsv")
    (tmp_path / "a.tsv").write_text("a\tb\n")
    source = opened(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").unlink()
    with pytest.raises(SourceError, match=r"a\.tsv cannot be read: there is no such file"):
        texts(source)


def test_unreadable_bytes_are_no_reason_to_stop_the_other_formats(tmp_path: Path) -> None:
    for ending in ("csv", "json", "parquet"):
        (tmp_path / f"a.{ending}").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError) if ending != "json" else pytest.MonkeyPatch.context():
            assert texts(opened(tmp_path / f"a.{ending}")) == []


def test_s3_source(moto_server: object, tmp_path: Path) -> None:
    import s3fs

    server: Callable[..., StorageSettings] = moto_server.settings  # type: ignore[attr-defined]
    storage = server(tmp_path)
    bucket = storage.uri.split("/")[2]
    assert storage.key is not None
    assert storage.secret is not None
    fs = s3fs.S3FileSystem(
        key=storage.key.get_secret_value(),
        secret=storage.secret.get_secret_value(),
        endpoint_url=storage.endpoint_url,
        skip_instance_cache=True,
    )
    fs.pipe(f"{bucket}/data/a.tsv", b"x\tone\ny\ttwo\n")
    fs.pipe(f"{bucket}/data/b.tsv", b"x\tthree\n")
    for name, expected in (("data", ["one", "two", "three"]), ("data/b.tsv", ["three"]), ("data/*.tsv", ["one", "two", "three"])):
        settings = DataSettings(source=f"s3://{bucket}/{name}")
        assert texts(open_source(settings, storage, LocalEngine(), split_bytes=5)) == expected
    with pytest.raises(SourceError, match="does not exist"):
        open_source(DataSettings(source=f"s3://{bucket}/none.tsv"), storage, LocalEngine())


def test_s3_source_of_a_wrong_key_is_refused_as_such(rclone_server: object, tmp_path: Path) -> None:
    server: Callable[..., StorageSettings] = rclone_server.settings  # type: ignore[attr-defined]
    storage = server(tmp_path).model_copy(update={"secret": SecretStr("another-secret-key-0123456789")})
    with pytest.raises(SourceError, match=r"train\.tsv cannot be read: access denied"):
        open_source(DataSettings(source=f"s3://{storage.uri.split('/')[2]}/train.tsv"), storage, LocalEngine())
