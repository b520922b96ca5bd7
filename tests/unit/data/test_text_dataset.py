"""From plain text to the dataset artifact of a language model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.corpus.prepare import prepare_text
from ts4s_core.data.corpus.scan import TextScan, scan_text
from ts4s_core.data.corpus.tokenizer_training import BEGIN, UNKNOWN, train_tokenizer
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.sides import SIDES
from ts4s_core.data.tokenizers import load_tokenizer
from ts4s_core.errors import DataError, SourceError
from ts4s_core.settings import Settings, StorageSettings

WORDS = ("red", "green", "blue", "cat", "dog", "house", "runs", "sleeps", "eats", "niño", "años", "the")
Prepare = Callable[..., tuple[ArtifactStore, TextScan, StepResult]]


def prose(lines: int, *, seed: int) -> str:
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) + draw.choice((".\n", ".\n\n")) for _ in range(lines))


def settings_for(folder: Path, source: Path, **given: Any) -> Settings:
    data = {"source": str(source), "window": 16, "block_bytes": 200, "validation_fraction": 0.2, **given.pop("data", {})}
    model = {"task": "language-model", "vocabulary_size": 300, **given.pop("model", {})}
    storage = StorageSettings(uri=str(folder / "store"), cache_dir=str(folder / "cache"))
    return Settings(name="lm", storage=storage, data=data, model=model, **given)


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def prepared(source: Path, **given: Any) -> tuple[ArtifactStore, TextScan, StepResult]:
        settings = settings_for(tmp_path, source, **given)
        store = ArtifactStore.open(settings.storage)
        scan = scan_text(settings, LocalEngine())
        return store, scan, prepare_text(settings, store, LocalEngine(), scan=scan)

    return prepared


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(prose(300, seed=1), encoding="utf-8")
    return path


def test_every_token_is_a_target_once_and_text_comes_back(prepare: Prepare, book: Path) -> None:
    store, _scan, result = prepare(book)
    assert sum(result.facts["bytes"].values()) == book.stat().st_size
    with TextDataset.open(store, result.ref) as dataset:
        tokenizer = load_tokenizer(dataset.tokenizer_folder())
        assert (dataset.window, dataset.stride, dataset.begin_id) == (16, 16, 0)
        texts = []
        for side in SIDES:
            windows = 0
            for table in dataset.read(side):
                for row in table.to_pylist():
                    ids, starts = row["input_ids"], row["starts"]
                    assert ids[0] == 0
                    assert tokenizer.decode(ids[1:]) == row["text"]
                    targets = [place for start in starts for place in range(start + 1, min(start + 17, len(ids)))]
                    assert targets == list(range(1, len(ids)))
                    assert (row["length"], row["bytes"]) == (len(ids), len(row["text"].encode()))
                    assert row["unknown_bytes"] == 0
                    windows += len(starts)
                    texts.append(row["text"])
            assert windows == sum(dataset.windows_per_group(side)) == result.facts["windows"][side]
            assert len(dataset.windows_per_group(side)) == len(dataset.rows_per_group(side))
    # The blocks are the book, cut and put in another order.
    whole = book.read_text(encoding="utf-8")
    assert "".join(sorted(texts, key=whole.index)) == whole


def test_the_same_text_in_other_files_is_the_same_dataset(prepare: Prepare, tmp_path: Path) -> None:
    documents = [prose(4, seed=seed) for seed in range(60)]
    results = []
    for name, order in (("one", documents), ("two", documents[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        for number, text in enumerate(order):
            (folder / f"{number:03}.txt").write_bytes(text.replace("\n", "\r\n" if name == "two" else "\n").encode())
        results.append(prepare(folder, data={"split_by": "document", "block_bytes": 4_096}))
    (_store, first, one), (_, second, two) = results
    assert first.fingerprint == second.fingerprint
    assert first.tokenizer == second.tokenizer
    assert two.reused
    assert one.ref == two.ref


def test_held_out_windows_share_no_document_with_training(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(60):
        mark = f"document{number}x"
        (folder / f"{number}.txt").write_text("".join(f"{mark} {line}\n" for line in prose(12, seed=number).splitlines() if line))
    store, _, result = prepare(folder, data={"split_by": "document"})
    marks: dict[str, set[str]] = {}
    with TextDataset.open(store, result.ref) as dataset:
        for side in SIDES:
            texts = [text for table in dataset.read(side, ["text"]) for text in table.column("text").to_pylist()]
            marks[side] = {word for text in texts for word in text.split() if word.startswith("document")}
    assert all(marks.values())
    assert sum(len(found) for found in marks.values()) == len(set().union(*marks.values())) == 60
    assert result.facts["rows"]["train"] > len(marks["train"])  # a document has several blocks, and windows more


def test_the_embedded_text_shares_no_long_run_of_words_between_sides(prepare: Prepare) -> None:
    store, _, result = prepare(Path(), data={"source": "", "window": 64, "block_bytes": 0, "validation_fraction": 0.1})
    grams: dict[str, set[tuple[str, ...]]] = {}
    with TextDataset.open(store, result.ref) as dataset:
        for side in SIDES:
            texts = [text.split() for table in dataset.read(side, ["text"]) for text in table.column("text").to_pylist()]
            grams[side] = {tuple(words[at : at + 30]) for words in texts for at in range(len(words) - 29)}
    shared = len(grams["test"] & (grams["train"] | grams["validation"]))
    assert shared <= 0.01 * len(grams["test"])


def test_tokenizer_knows_nothing_of_held_out_text(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(60):
        word = f"qz{chr(97 + number // 10)}{chr(97 + number % 10)}" * 3
        (folder / f"{number}.txt").write_text(f"{word} " * 20 + prose(6, seed=number))
    model = {"vocabulary_size": 2_000, "tokenizer_kind": "word-level"}
    store, _, result = prepare(folder, data={"split_by": "document"}, model=model)
    with TextDataset.open(store, result.ref) as dataset:
        vocabulary = load_tokenizer(dataset.tokenizer_folder()).get_vocab()
        for side in SIDES:
            for table in dataset.read(side):
                for row in table.to_pylist():
                    word = row["text"].split(" ")[0]
                    if word.startswith("qz") and row["text"].count(word) > 1:
                        assert (f"Ġ{word}" in vocabulary) == (side == "train")
                        assert (row["unknown_bytes"] > 0) == (side != "train")


def test_trained_tokenizers_give_text_back_in_the_same_bytes_each_time() -> None:
    texts = [prose(40, seed=seed) for seed in range(5)]
    for kind in ("byte-level-bpe", "word-level"):
        files = train_tokenizer(texts, kind=kind, vocabulary_size=400)
        assert files == train_tokenizer(texts, kind=kind, vocabulary_size=400)
        from ts4s_core.data.corpus.tokens import TextTokenizer

        tokenizer = TextTokenizer.of(files)
        loaded = tokenizer.load()
        assert (tokenizer.begin_id, loaded.id_to_token(0)) == (0, BEGIN)
        encoded = tokenizer.encode(loaded, [texts[0], "niño zzz"])
        assert loaded.decode(encoded.ids[1 : encoded.lengths[0]].tolist()) == texts[0]
        if kind == "word-level":
            assert loaded.id_to_token(tokenizer.unknown_id) == UNKNOWN
            assert encoded.unknown_bytes.tolist()[0] == 0
            assert encoded.unknown_bytes.tolist()[1] >= len(" zzz")
        else:
            assert encoded.unknown_bytes.tolist() == [0, 0]


def refused(tmp_path: Path, source: Path, **given: Any) -> str:
    with pytest.raises((DataError, SourceError)) as error:
        scan_text(settings_for(tmp_path, source, **given), LocalEngine())
    assert not (tmp_path / "store").exists()
    return str(error.value)


def test_what_is_no_text_is_refused(tmp_path: Path, book: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no files" in refused(tmp_path, empty)
    (empty / "a.txt").touch()
    assert "holds no text: all 1 files are empty" in refused(tmp_path, empty)
    (empty / "a.txt").write_text(" \n" * 100)
    assert "white space alone" in refused(tmp_path, empty)
    (empty / "a.txt").write_bytes(prose(50, seed=2).encode("latin-1"))
    message = refused(tmp_path, empty)
    assert "blocks of text are bad, more than data.max_bad_fraction 0.01 allows" in message
    assert "a.txt:1 not UTF-8" in message
    assert "does not exist" in refused(tmp_path, tmp_path / "nowhere")
    (tmp_path / "rows.csv").write_text("label,text\n")
    assert "expected plain text" in refused(tmp_path, tmp_path / "rows.csv")
    assert "max_rows 5 has no meaning" in refused(tmp_path, book, data={"max_rows": 5})
    assert "is for labelled data" in refused(tmp_path, book, data={"format": "tsv"})


def test_too_little_text_is_refused(tmp_path: Path, book: Path) -> None:
    message = refused(tmp_path, book, data={"window": 150, "block_bytes": 200})
    assert "too little text for one window on each side" in message
    assert "Lower data.window" in message
    assert "side of data.source" in refused(tmp_path, book, data={"block_bytes": 2**20})


def test_a_few_bad_blocks_are_left_out_and_listed(prepare: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "mixed.txt"
    good = prose(1_500, seed=3)
    path.write_bytes(good.encode() + b"bad \xff byte\n")
    _store, scan, result = prepare(path)
    assert scan.bad_rows == result.facts["bad_rows"] == 1
    assert scan.bad[0].line <= good.count("\n") + 1
    assert scan.bad[0].line > good.count("\n") - 20


def test_text_that_changes_between_scan_and_prepare_is_refused(tmp_path: Path, book: Path) -> None:
    settings = settings_for(tmp_path, book)
    store, scan = ArtifactStore.open(settings.storage), scan_text(settings, LocalEngine())
    book.write_text(prose(300, seed=9), encoding="utf-8")
    with pytest.raises(DataError, match="changed while it was read"):
        prepare_text(settings, store, LocalEngine(), scan=scan)
    assert store.newest("dataset", "lm") is None


def test_memory_does_not_grow_with_the_groups(tmp_path: Path) -> None:
    """A tokenizer that has encoded keeps memory of its threads when it goes: there is one for all groups of a process."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(20_000)]
    (tmp_path / "t.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=60)) for _ in range(2_500)))
    settings = settings_for(
        tmp_path, tmp_path / "t.txt", model={"vocabulary_size": 2_000}, data={"block_bytes": 4_096}, reuse=False
    )
    store, engine = ArtifactStore.open(settings.storage), LocalEngine()
    scan = scan_text(settings, engine)
    prepare_text(settings, store, engine, scan=scan)
    before = psutil.Process().memory_info().rss
    for _ in range(8):
        assert not prepare_text(settings, store, engine, scan=scan).reused
    # It grew by 170 MiB with a tokenizer a group; 5 to 16 MiB are other things of the process.
    assert psutil.Process().memory_info().rss - before < 60 * 2**20
