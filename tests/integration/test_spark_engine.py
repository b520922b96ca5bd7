"""The same dataset, byte for byte, from Spark with two and four slots and from one process; errors keep their nature."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from word_tokenizer import make_tokenizer

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.data_engine import LocalEngine, TableSource
from ts4s_core.data.formats.rows import Tally
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import scan
from ts4s_core.data.sources import open_source
from ts4s_core.errors import DataError, SourceError, SparkError
from ts4s_core.settings import DataSettings, ModelSettings, Settings, StorageSettings
from ts4s_core.spark.execution.data_engine import SparkEngine, cause_of

ROOT = Path(__file__).parents[2]
LINES = [f"{('north', 'south', 'wést')[n % 3]}\tthe red cat number {n % 290} sleeps in house {n * 7 % 13}" for n in range(300)]


def session_of(master: str, folder: Path) -> Any:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    return (
        SparkSession.builder.master(master)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.local.dir", str(folder))
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )


@pytest.fixture(scope="module", params=["local[2]", "local[4]"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkEngine]:
    session = session_of(request.param, tmp_path_factory.mktemp("spark"))
    yield SparkEngine(session)
    session.stop()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tok") / "tokenizer")


def settings_of(source: object, store: Path, **data: object) -> Settings:
    return Settings(
        name="demo",
        data=DataSettings.model_validate({"source": str(source), **data}),
        model=ModelSettings(max_length=8),
        storage=StorageSettings(uri=str(store)),
    )


def files_of(settings: Settings, engine: Any, tokenizer_folder: Path) -> dict[str, str]:
    store = ArtifactStore.open(settings.storage)
    result = prepare_dataset(settings, store, engine, scan=scan(settings, engine), tokenizer_folder=tokenizer_folder)
    return {entry.path: entry.sha256 for entry in store.manifest(result.ref).files if entry.path != "bad_rows.json"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.tsv").write_text("\n".join([*LINES[number::4], ""]), encoding="utf-8")
    return folder


def test_spark_and_one_process_write_the_same_bytes(
    engine: SparkEngine, source: Path, tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts4s_core.data.schema.ROWS_PER_BUCKET", 40)
    local = files_of(settings_of(source, tmp_path / "a"), LocalEngine(), tokenizer_folder)
    assert sum(path.endswith(".parquet") for path in local) > 8
    assert files_of(settings_of(source, tmp_path / "b"), engine, tokenizer_folder) == local


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("cast(string(id) as binary)", "binary"),
        ("current_timestamp()", "timestamp"),
        ("current_date()", "date"),
        ("named_struct('a', id)", "struct"),
        ("array(cast(string(id) as binary))", "array<binary>"),
    ],
)
def test_types_of_a_table_that_are_no_labels(engine: SparkEngine, tmp_path: Path, label: str, kind: str) -> None:
    session = engine._session
    session.range(9).selectExpr(f"{label} as label", "concat('text ', id) as text").createOrReplaceTempView("typed")
    with pytest.raises(DataError, match=f"Table typed has column 'label' of type {kind}"):
        scan(settings_of("typed", tmp_path / "x", format="table"), engine)


def test_types_of_a_table_that_are_labels(engine: SparkEngine, tmp_path: Path) -> None:
    session = engine._session
    for label in ("id % 2", "cast(id % 2 as double)", "cast(id % 2 as decimal(9, 3))", "string(id % 2)"):
        session.range(60).selectExpr(f"{label} as label", "concat('text ', id) as text").createOrReplaceTempView("typed")
        assert scan(settings_of("typed", tmp_path / "x", format="table"), engine).labels == ("0", "1")


def test_csv_that_spark_writes_is_read_as_it_was_written(engine: SparkEngine, tmp_path: Path) -> None:
    """Every dialect of its writer, with the setting that the bytes ask for."""
    draw = random.Random(11)
    signs = ["a", "b", "\\", '"', ",", "\n", " ", "é", "'", "#", "\t", "x"]
    texts = ["".join(draw.choices(signs, k=draw.randint(1, 9))) for _ in range(300)] + ['say "hi"', "a\\", ',\\"\\', '"', "\\,"]
    rows = [("ab"[number % 2], f"{text}{number}" if number % 3 else f"{number}{text}") for number, text in enumerate(texts)]
    frame = engine._session.createDataFrame(rows, "label string, text string").repartition(3)
    options: list[tuple[dict[str, str], dict[str, object]]] = [
        ({}, {"csv_escape": "\\"}),
        ({"quoteAll": "true"}, {"csv_escape": "\\"}),
        ({"escape": '"'}, {}),
        ({"escape": '"', "compression": "gzip"}, {}),
        ({"escape": "!"}, {"csv_escape": "!"}),
        ({"encoding": "UTF-16"}, {"csv_escape": "\\"}),
    ]
    expected = sorted((label, text.strip()) for label, text in rows)
    for number, (written, given) in enumerate(options):
        frame.write.options(header=True, **written).csv(str(tmp_path / str(number)))
        source = open_source(DataSettings(source=str(tmp_path / str(number)), **given), StorageSettings(), engine)  # type: ignore[arg-type]
        found = [(row.labels[0], row.text) for split in source.splits for row in source.read(split, Tally())]
        assert sorted(found) == expected, written
    with pytest.raises(DataError, match="a backslash stands before a quote: if it escapes the quote, as Spark writes csv"):
        scan(settings_of(tmp_path / "0", tmp_path / "store"), engine)
    frame.write.csv(str(tmp_path / "bare"))
    with pytest.raises(DataError, match="A file without a header needs one"):
        scan(settings_of(tmp_path / "bare", tmp_path / "store", csv_escape="\\"), engine)


def test_a_table_gives_the_same_bytes(engine: SparkEngine, source: Path, tmp_path: Path, tokenizer_folder: Path) -> None:
    local = files_of(settings_of(source, tmp_path / "a"), LocalEngine(), tokenizer_folder)
    session = engine._session
    rows = [line.split("\t") for line in LINES]
    session.createDataFrame(rows, "category string, body string").repartition(3).createOrReplaceTempView("labelled")
    settings = settings_of("labelled", tmp_path / "b", format="table", text_column="body", label_column="category")
    assert files_of(settings, engine, tokenizer_folder) == local
    with pytest.raises(DataError, match="Table labelled has no column 'text': it has 'category', 'body'"):
        scan(settings_of("labelled", tmp_path / "b", format="table", label_column="category"), engine)
    session.sql("select body as Text, category as LABEL from labelled").createOrReplaceTempView("shouted")
    assert files_of(settings_of("shouted", tmp_path / "c", format="table"), engine, tokenizer_folder) == local
    with pytest.raises(SourceError, match=r"data\.source nowhere is not a Spark table"):
        scan(settings_of("nowhere", tmp_path / "b", format="table"), engine)


def test_partitions_without_rows_are_partitions_too(
    engine: SparkEngine, source: Path, tmp_path: Path, tokenizer_folder: Path
) -> None:
    local = files_of(settings_of(source, tmp_path / "a"), LocalEngine(), tokenizer_folder)
    rows = [line.split("\t") for line in LINES]
    frame = engine._session.createDataFrame([(*row, 7) for row in rows], "label string, text string, key int")
    frame.repartition(3, "key").createOrReplaceTempView("gaps")  # all rows in one of them
    columns = [("label", "label_column"), ("text", "text_column")]
    assert len(engine.table_partitions(TableSource("table", "gaps"), columns)) == 3
    assert files_of(settings_of("gaps", tmp_path / "b", format="table"), engine, tokenizer_folder) == local


def test_errors_of_executors_are_ours(engine: SparkEngine, source: Path, tmp_path: Path, tokenizer_folder: Path) -> None:
    settings = settings_of(source, tmp_path / "a")
    found = scan(settings, engine)
    (source / "2.tsv").unlink()
    store = ArtifactStore.open(settings.storage)
    with pytest.raises(SourceError, match=r"2\.tsv cannot be read: there is no such file") as caught:
        prepare_dataset(settings, store, engine, scan=found, tokenizer_folder=tokenizer_folder)
    assert "Traceback" not in str(caught.value)
    assert store.versions("dataset", "demo") == []


def test_foreign_errors_keep_their_cause(engine: SparkEngine) -> None:
    with pytest.raises(SparkError, match=r"^Spark stage halves failed: ZeroDivisionError: division by zero$"):
        engine.map(lambda item: 1 / item, [1, 0], stage="halves")


def test_map_keeps_the_order(engine: SparkEngine) -> None:
    assert engine.map(lambda item: item * item, list(range(9)), stage="squares") == [n * n for n in range(9)]
    assert engine.map(lambda item: item, [], stage="nothing") == []


def test_cause_of_a_report_without_a_traceback() -> None:
    assert cause_of("\n Job aborted due to stage failure\n at x\n") == "Job aborted due to stage failure"
    assert (
        cause_of("a\nTraceback (most recent call last):\n  File\npkg.mod.OddError: why: so\n\n\tat java")
        == "pkg.mod.OddError: why: so"
    )
