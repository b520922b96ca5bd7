"""Encodings and compressions: a file is read as what its first bytes say, or refused by name; a NUL is in no text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4s_core.data.corpus.corpus import open_text
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.decoding import as_utf8, is_plain
from ts4s_core.data.formats.rows import Row, Tally
from ts4s_core.data.sides import SidePlan
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings

ROWS = [("wést" if number % 3 else "日本", f"text nümber {number} 運動") for number in range(300)]
LINES = {
    "tsv": "".join(f"{label}\t{text}\r\n" for label, text in ROWS),
    "csv": "label,text\n" + "".join(f'{label},"{text}"\n' for label, text in ROWS),
    "jsonl": "".join(json.dumps({"label": label, "text": text}, ensure_ascii=False) + "\n" for label, text in ROWS),
    "json": json.dumps([{"label": label, "text": text} for label, text in ROWS], ensure_ascii=False, indent=1),
}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return bytes(sink.getvalue())


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def read(path: Path, **data: object) -> tuple[list[Row], Tally]:
    """As training reads it, cut as small as may be."""
    given_data = DataSettings.model_validate({"source": str(path), **data})
    source = open_source(given_data, StorageSettings(), LocalEngine(), split_bytes=500)
    together = Tally()
    rows = []
    for split in source.splits:
        tally = Tally()
        rows += source.read(split, tally)
        together.bad += tally.bad
    return rows, together


def predicted(path: Path, **data: object) -> list[str | None]:
    source = open_texts(DataSettings.model_validate({"source": str(path), **data}), StorageSettings(), LocalEngine(), slots=1)
    return [row.text for part in source.splits for row in source.read(part)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("kind", LINES)
def test_the_rows_are_those_of_the_plain_file(tmp_path: Path, kind: str, ending: str, encoding: str) -> None:
    path = tmp_path / f"rows.{kind}{ending}"
    path.write_bytes(COMPRESSIONS[ending](LINES[kind].encode(encoding)))
    rows, tally = read(path)
    assert [(row.labels[0], row.text) for row in rows] == ROWS
    assert tally.bad == []
    assert predicted(path) == [text for _, text in ROWS]


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_either_order_of_bytes_with_a_mark(tmp_path: Path, mark: str) -> None:
    (tmp_path / "rows.tsv").write_bytes(("\ufeff" + LINES["tsv"]).encode(mark))
    assert [row.text for row in read(tmp_path / "rows.tsv")[0]] == [text for _, text in ROWS]


@pytest.mark.parametrize(
    "text", ["sport\tball team\nmoney\tbank\n", "運動\t日本語の文章\n野球\t別の文章\n" * 9, "label,text\nsport,ball\n"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_two_bytes_a_character_without_a_mark_are_refused_by_name(tmp_path: Path, text: str, encoding: str) -> None:
    for name in ("rows.tsv", "rows.csv"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        for reader in (read, predicted):
            with pytest.raises(DataError, match=rf"{name} begins with NUL bytes and seems to be {encoding.upper()} text without"):
                reader(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
        (b"Obj\x01\0\0schema", "an Avro file"),
        (bytes(64), "no text"),
        (b"GIF89a\0\0\0\0", "no text"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(DataError, match=f"rows.csv begins with NUL bytes and seems to be {kind}"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_a_nul_inside_a_text_or_a_label_is_a_bad_row(tmp_path: Path, kind: str) -> None:
    table = [("a", f"good {number}") for number in range(40)] + [("a", "no\0text"), ("b\0", "label"), ("b", "last")]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"label": [label for label, _ in table], "text": [text for _, text in table]}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in table))
    else:
        sign = "\t" if kind == "tsv" else ","
        path.write_text(("label,text\n" if kind == "csv" else "") + "".join(f"{label}{sign}{text}\n" for label, text in table))
    rows, tally = read(path)
    assert [row.text for row in rows] == [text for label, text in table if "\0" not in label + text]
    assert [reason for _, reason in tally.bad] == ["a NUL character in the text", "a NUL character in the label"]
    assert predicted(path).count(None) == 1


def test_characters_that_are_none_are_bad_rows(tmp_path: Path) -> None:
    data = bytearray(b"".join(f"a\ttext {number}\n".encode("utf-16-le") for number in range(20)))
    data[8:10] = b"\x00\xdc"  # half a pair, in the first text
    (tmp_path / "rows.tsv").write_bytes(b"\xff\xfe" + bytes(data))
    rows, tally = read(tmp_path / "rows.tsv")
    assert [row.text for row in rows] == [f"text {number}" for number in range(1, 20)]
    assert tally.bad == [(1, "not UTF-8")]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_that_was_cut_off_is_refused(tmp_path: Path, ending: str) -> None:
    whole = COMPRESSIONS[ending](LINES["tsv"].encode())
    (tmp_path / f"rows.tsv{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=rf"rows\.tsv\{ending} is damaged"):
        read(tmp_path / f"rows.tsv{ending}")


@pytest.mark.parametrize("together", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_several_streams_in_one_file_and_a_second_reading(together: Callable[[bytes], bytes]) -> None:
    file = as_utf8(io.BytesIO(together(b"one\n") + together("zwö\n".encode())), "x")
    assert file.read() == "one\nzwö\n".encode()
    assert file.seek(0) == 0
    assert file.read() == "one\nzwö\n".encode()


def test_a_dictionary_of_xz_that_would_fill_the_memory_is_refused() -> None:
    data = bytearray(lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    assert as_utf8(io.BytesIO(bytes(data)), "x").read() == b"x"
    at = data.index(b"\x21\x01") + 2
    data[at] = 40  # 4 GiB
    with pytest.raises(DataError, match="x is damaged xz"):
        as_utf8(io.BytesIO(bytes(data)), "x").read()


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=200), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.sampled_from(list(COMPRESSIONS)))
def test_any_text_comes_back(text: str, encoding: str, ending: str) -> None:
    data = COMPRESSIONS[ending](text.encode(encoding))
    try:
        found = as_utf8(io.BytesIO(data), "x").read().decode("utf-8-sig")
    except DataError:
        assert "\0" in text
    else:
        assert found == text.removeprefix("\ufeff") or "\ufeff" in text
        assert is_plain(data[:10]) == (encoding.startswith("utf-8") and not ending) or not text


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("split_by", ["block", "document"])
def test_a_language_model_reads_the_same_text(tmp_path: Path, ending: str, split_by: str) -> None:
    words = "\n\n".join(" ".join(f"wörd{(17 * at + line) % 97}" for at in range(90)) for line in range(60))
    plain, other = tmp_path / "plain", tmp_path / "other"
    for folder, data, name in (
        (plain, words.encode(), "a.txt"),
        (other, COMPRESSIONS[ending](words.encode("utf-16")), f"a.txt{ending}"),
    ):
        folder.mkdir()
        (folder / name).write_bytes(data)
    found = []
    for folder in (plain, other):
        source = open_text(DataSettings(source=str(folder), split_by=split_by), StorageSettings())
        blocks = [block for split in source.splits for block in source.read(split, SidePlan(0, 0.2, 0.2), Tally())]
        found.append([(block.text, block.side) for block in blocks])
    assert found[0] == found[1]
    assert len(found[0]) > 5
    assert "".join(text for text, _ in found[1]) == words


def test_a_nul_in_a_block_of_text_is_a_bad_block(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(["word " * 900, "w\0rd " + "word " * 900, "word " * 900]))
    source, tally = open_text(DataSettings(source=str(tmp_path / "a.txt")), StorageSettings()), Tally()
    texts = [block.text for split in source.splits for block in source.read(split, SidePlan(0, 0.2, 0.2), tally)]
    assert [reason for _, reason in tally.bad] == ["a NUL character in it"]
    assert "\0" not in "".join(texts)
    (tmp_path / "a.txt").write_bytes(("some words " * 900).encode("utf-16-be"))
    source = open_text(DataSettings(source=str(tmp_path / "a.txt")), StorageSettings())
    with pytest.raises(DataError, match=r"a\.txt begins with NUL bytes and seems to be UTF-16-BE"):
        list(source.read(source.splits[0], SidePlan(0, 0.2, 0.2), Tally()))
