"""Rows of labelled text: what ``prepare`` and ``predict`` read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mutations import by_parquet
from target import Target

from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.formats.rows import Row, Tally
from ts4s_core.data.sources import open_source
from ts4s_core.prediction.source_rows import open_texts
from ts4s_core.settings import DataSettings, StorageSettings

_STORAGE = StorageSettings()
_ROWS = [("a", "one text"), ("b", 'another, "quoted"'), ("c|a", "ü\u2028x")]


def _read_rows(data: bytes, folder: Path, *, kind: str) -> None:
    """As training reads it, whole and cut into small splits, and as prediction does; the ways must agree."""
    path = folder / f"data.{kind}"
    path.write_bytes(data)
    settings = DataSettings(source=str(path), format=kind, id_column="id" if b'"id"' in data else "")
    whole, tally = _rows(settings, None, multi_label=len(data) % 2 == 1)
    assert len(whole) + tally.bad_rows + tally.blank <= max(tally.lines, len(whole) + tally.bad_rows + tally.blank)
    if kind in ("tsv", "json"):
        cut, cut_tally = _rows(settings, 7 if len(data) < 100 else 97, multi_label=len(data) % 2 == 1)
        assert cut == whole, "rows differ where the file is cut into splits"
        assert (cut_tally.bad_rows, cut_tally.blank) == (tally.bad_rows, tally.blank), "tallies differ where the file is cut"
    texts = open_texts(settings, _STORAGE, LocalEngine(), slots=1)
    for part in texts.splits:
        for row in texts.read(part):
            assert (row.text is None) != (row.reason is None), "a text and a reason, or neither"


def _rows(settings: DataSettings, split_bytes: int | None, *, multi_label: bool) -> tuple[list[Row], Tally]:
    source = open_source(settings, _STORAGE, LocalEngine(), multi_label=multi_label, split_bytes=split_bytes)
    rows: list[Row] = []
    together = Tally()
    for split in source.splits:
        tally = Tally()
        rows += source.read(split, tally)
        together.lines += tally.lines
        together.blank += tally.blank
        together.bad_rows += tally.bad_rows
    for row in rows:
        assert row.text == row.text.strip() != "", "a row without text, or not trimmed"
        assert all(row.labels), "a row without label"
        row.text.encode("utf-8")
    return rows, together


def _tsv() -> list[bytes]:
    lines = "".join(f"{label}\t{text}\n" for label, text in _ROWS)
    return [
        lines.encode(),
        b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode(),
        b"a\tb\tc\n\n \nno tab\n\tx\ny\t\n\xff\t\xfe\n",
    ]


def _csv() -> list[bytes]:
    good = 'id,text,label\n1,"a, ""b""\nc",x\n\n2, d ,"y"\n'
    return [good.encode(), b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode(), b'label,text\na,"open\nb,"x"y\nc,\xff\n']


def _json() -> list[bytes]:
    records = [{"label": label, "text": text, "id": at} for at, (label, text) in enumerate(_ROWS)]
    lines = "\n".join(json.dumps(record) for record in records)
    many = {"label": ["a", "b"], "text": "t", "id": None, "more": {"x": [1, 2.5, True]}}
    return [lines.encode(), json.dumps(records, indent=1).encode(), json.dumps([many, many]).encode(), json.dumps(many).encode()]


def _tables() -> list[pa.Table]:
    texts = pa.array([text for _, text in _ROWS] * 20)
    labels = pa.array([label for label, _ in _ROWS] * 20)
    numbers = pa.array(range(60))
    days = pa.array(range(60), pa.timestamp("us", tz="UTC"))
    lists = pa.array([["a", "b"]] * 60)
    columns = {
        "plain": (texts, labels),
        "numbers": (texts, numbers),
        "days": (texts.cast(pa.large_string()), days),
        "decimals": (texts, numbers.cast(pa.decimal128(25, 2))),
        "lists": (texts, lists),
        "structs": (texts, pa.array([{"a": 1}] * 60)),
        "nulls": (pa.nulls(60), labels),
        "words": (texts.dictionary_encode(), labels.dictionary_encode()),
        "spans": (texts, pa.array(range(60), pa.duration("ns"))),
        "times": (texts, pa.array(range(60), pa.time64("ns"))),
        "halves": (texts, pa.array([0.5, None, float("nan")] * 20, pa.float64())),
        "bytes": (texts, pa.array([b"\xff"] * 60)),
    }
    return [pa.table({"id": numbers, "text": text, "label": label}) for text, label in columns.values()]


def _parquet() -> list[bytes]:
    files = []
    for at, table in enumerate(_tables()):
        for compression in ("none", ("snappy", "zstd", "gzip", "lz4", "brotli")[at % 5]):
            file = io.BytesIO()
            pq.write_table(
                table,
                file,
                compression=compression,
                row_group_size=25,
                use_dictionary=at % 2 == 0,
                data_page_version=("1.0", "2.0")[at % 2],
                write_page_checksum=at % 3 == 0,
            )
            files.append(file.getvalue())
    return files


def _of(kind: str) -> Callable[[bytes, Path], None]:
    return partial(_read_rows, kind=kind)


TARGETS = {
    "tsv": Target(_tsv, _of("tsv"), words=(b"\t", b"\r\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x0b", b"\xff")),
    "csv": Target(_csv, _of("csv"), words=(b'""', b'",', b'"\n', b"label", b"text", b"\r\n", b"\xed\xa0\x80")),
    "json": Target(_json, _of("json"), words=(b'"label":', b'"text":', b"\\ud800", b"1e999", b"[[[[", b"null", b"NaN", b'{"')),
    "parquet": Target(_parquet, _of("parquet"), change=by_parquet),
}
