from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.errors import DataError, IntegrityError
from ts4s_core.evaluation.scoring.score_rows import TOKENS_PER_BATCH, predict_rows
from ts4s_core.evaluation.scoring.scorer import same_tokens
from ts4s_core.models.length_batches import ROWS_PER_BATCH, length_batches
from ts4s_core.process_state import PROCESS

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh_worker() -> None:
    PROCESS.clear()


class BackwardEngine(LocalEngine):
    """Runs the items of a map last to first, as executors may."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], *, stage: str) -> list[Any]:
        return list(reversed([function(item) for item in reversed(items)]))


def by_hand(store: ArtifactStore, dataset: ArtifactRef, table: np.ndarray) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    with Dataset.open(store, dataset) as opened:
        rows = [row for part in opened.read("test") for row in part.to_pylist()]
    logits = np.stack([table[row["input_ids"]].mean(axis=0) for row in rows])
    return [row["id"] for row in rows], np.array([row["label"] for row in rows]), logits


def test_every_row_gets_the_logits_of_its_own_tokens(
    store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make
) -> None:
    rows = lines(3_000)
    dataset = prepare(rows)
    table = weights(1.0)
    trained = train(dataset, table)
    events: list[dict[str, object]] = []
    answers = predict_rows(
        store, LocalEngine(), trained=trained, dataset=dataset, progress=lambda stage, fields: events.append(dict(fields))
    )
    ids, labels, logits = by_hand(store, dataset, table)
    assert len(answers) > 768  # several row groups
    assert [answers.ids[row : row + 1].tobytes() for row in range(len(answers))] == ids
    np.testing.assert_array_equal(answers.truth.argmax(axis=1), labels)
    np.testing.assert_allclose(answers.logits, logits, atol=1e-5)
    texts = {row.split("\t")[1] for row in rows}
    assert {hashlib.sha256(text.encode()).digest()[:16] for text in texts} >= set(ids)
    assert events[-1]["row"] == events[-1]["rows"] == len(answers)


def test_the_bits_do_not_hang_on_who_runs_what_first(
    store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make
) -> None:
    dataset = prepare(lines(5_000))
    trained = train(dataset, weights(1.0))
    threads = torch.get_num_threads()
    first = predict_rows(store, LocalEngine(), trained=trained, dataset=dataset)
    second = predict_rows(store, BackwardEngine(), trained=trained, dataset=dataset)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert torch.get_num_threads() == threads


def test_a_model_with_another_tokenizer_reads_the_texts(
    store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make, other_words: list[str]
) -> None:
    rows = lines(600)
    dataset, other = prepare(rows), prepare(rows, name="other", words=other_words)
    ours = train(other, weights(1.0, words=other_words), words=other_words)
    assert same_tokens(store, ours, other)
    assert not same_tokens(store, ours, dataset)
    own = predict_rows(store, LocalEngine(), trained=ours, dataset=other)
    foreign = predict_rows(store, LocalEngine(), trained=ours, dataset=dataset)
    np.testing.assert_array_equal(own.ids, foreign.ids)
    np.testing.assert_array_equal(own.logits, foreign.logits)


def test_classes_stand_in_the_datasets_order(
    store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make
) -> None:
    dataset, table = prepare(lines(300)), weights(1.0)
    straight = predict_rows(store, LocalEngine(), trained=train(dataset, table), dataset=dataset)
    turned = train(dataset, table[:, [2, 0, 1]].copy(), labels=("c", "a", "b"))
    np.testing.assert_array_equal(predict_rows(store, LocalEngine(), trained=turned, dataset=dataset).logits, straight.logits)


def test_other_labels_are_refused_by_name(store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make) -> None:
    dataset = prepare(lines(300))
    trained = train(dataset, weights(1.0), labels=("a", "b", "z"))
    with pytest.raises(DataError, match=r"only in the dataset: c; only in the model: z"):
        predict_rows(store, LocalEngine(), trained=trained, dataset=dataset)


def test_damaged_rows_are_refused(store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make) -> None:
    dataset = prepare(lines(300))
    trained = train(dataset, weights(1.0))
    assert store.storage.folder is not None
    path = store.storage.folder / str(dataset) / "test" / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"test/00000\.parquet"):
        predict_rows(store, LocalEngine(), trained=trained, dataset=dataset)


def test_multi_label_rows(store: ArtifactStore, prepare: Make, train: Make, lines: Make, weights: Make) -> None:
    rows = [line.replace("c\t", "a|b\t", 1) for line in lines(300)]
    dataset = prepare(rows, task="multi-label")
    answers = predict_rows(
        store, LocalEngine(), trained=train(dataset, weights(1.0)[:, :2].copy(), labels=("a", "b")), dataset=dataset
    )
    assert answers.multi_label
    assert set(map(tuple, answers.truth.tolist())) == {(True, False), (False, True), (True, True)}


@given(st.lists(st.integers(1, 9_000), max_size=300))
def test_batches_hold_every_row_once_and_stay_bounded(lengths: list[int]) -> None:
    made = list(length_batches(lengths, tokens=TOKENS_PER_BATCH))
    assert sorted(row for batch in made for row in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) <= ROWS_PER_BATCH
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= TOKENS_PER_BATCH
    assert [lengths[row] for batch in made for row in batch] == sorted(lengths, reverse=True)
