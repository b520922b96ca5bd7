from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from waiting import wait_for

from ts4s_core.data.corpus.window_starts import starts_of, windows_of
from ts4s_core.training.batches.prefetch import prefetched
from ts4s_core.training.batches.text_windows import window_block
from ts4s_core.training.driver.statistics import as_text
from ts4s_core.training.step.objectives import objective_for
from ts4s_core.training.step_rows import StepRow


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 1), (5, 3), (16, 16)])
def test_windows_have_every_token_but_the_first_as_a_target(window: int, stride: int) -> None:
    lengths = np.arange(0, 40)
    starts, counts = starts_of(lengths, window=window, stride=stride)
    assert counts.tolist() == windows_of(lengths, window=window, stride=stride).tolist()
    for length, own in zip(lengths, np.split(starts, np.cumsum(counts)[:-1]), strict=True):
        targets = {place for start in own for place in range(start + 1, min(start + window, length - 1) + 1)}
        assert targets == set(range(1, length))
        assert all(start + 1 < length for start in own)


def test_batches_are_offsets_into_blocks_with_the_next_tokens_as_labels() -> None:
    rows = [[10, 11, 12, 13, 14, 15], [20, 21, 22]]
    table = pa.table(
        {
            "id": pa.array([b"a" * 16, b"b" * 16], pa.binary(16)),
            "input_ids": pa.array(rows, pa.list_(pa.int32())),
            "starts": pa.array([[0, 2], [0]], pa.list_(pa.int32())),
        }
    )
    block = window_block(table, window=4)
    assert len(block.tokens) == 9  # overlapping windows hold no copies
    assert block.lengths.tolist() == [4, 3, 2]
    batch = block.batch(np.array([2, 1]), pad_id=7)
    assert batch.input_ids.tolist() == [[20, 21, 7], [12, 13, 14]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [[21, 22, -100], [13, 14, 15]]
    assert (batch.tokens, batch.padded_tokens) == (5, 6)
    assert block.sample_ids(np.array([1, 2])) == [f"{'61' * 16}+2", f"{'62' * 16}+0"]

    logits = torch.zeros(2, 3, 30)
    logits[0, 0, 21] = 5.0
    loss = objective_for("language-model")(logits, batch)
    assert (loss.items, loss.correct, loss.predictions) == (5.0, 1.0, 5.0)
    assert loss.value == pytest.approx(4 * np.log(30) + np.log(29 + np.exp(5)) - 5, rel=1e-5)


def test_things_are_made_ahead_in_order_by_another_thread() -> None:
    made: list[int] = []

    def make(number: int) -> tuple[int, bool]:
        made.append(number)
        return number * number, threading.current_thread() is threading.main_thread()

    found = prefetched(range(10), make, depth=3)
    first = next(found)
    assert wait_for(lambda: len(made) >= 4, limit_s=5)
    assert made == [0, 1, 2, 3]
    assert [first, *found] == [(number, (number * number, False)) for number in range(10)]
    assert list(prefetched(range(3), make, depth=0)) == [(number, (number * number, True)) for number in range(3)]


def test_an_error_ahead_comes_when_its_turn_comes() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = prefetched(range(4), make, depth=2)
    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_statistics_by_epoch_and_in_all() -> None:
    rows = [
        StepRow(
            step=step,
            epoch=epoch,
            loss=loss,
            accuracy=accuracy,
            validation_loss=validation_loss,
            learning_rate=0.1,
            grad_norm=1.0,
            predictions=10,
            tokens=90,
            padded_tokens=90,
            tokens_per_s=900.0,
            milliseconds=100.0,
            memory=50.0,
            memory_per_worker="50.0;49.0",
        )
        for step, epoch, loss, accuracy, validation_loss in (
            (1, 0, 3.0, 0.1, None),
            (2, 0, 2.0, 0.3, 2.5),
            (3, 1, 1.0, 0.5, None),
        )
    ]
    executors = [{"executor": "e1", "task_ms": 12, "gc_ms": 1}]
    text = as_text(rows, about={"name": "x", "rows": 20, "logical_shards": 4}, totals={"steps": 3}, executors=executors)
    table = [line.split() for line in text.splitlines()]
    head = next(line for line in table if line[:2] == ["epoch", "learning_rate"])
    first, second, whole = (dict(zip(head, line, strict=True)) for line in table if line and line[0] in ("0", "1", "all"))
    assert (first["loss"], first["accuracy"], first["validation_loss"], first["batches"]) == ("2.5", "0.2", "2.5", "2")
    assert (second["loss"], second["validation_loss"], second["tokens_per_s"]) == ("1", "-", "900")
    assert (whole["loss"], whole["accuracy"], whole["tokens"], whole["predictions"]) == ("2", "0.3", "270", "30")
    assert (whole["rows"], whole["partitions"], whole["memory_per_worker_mib"]) == ("20", "4", "50.0;49.0")
    assert ["e1", "12", "1"] in table
