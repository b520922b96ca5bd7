from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
from toy import ToyRows, step_row

from ts4s_core.errors import InputError, UnsupportedModelError
from ts4s_core.settings import TrainSettings
from ts4s_core.training.batches.batch import RowBlock, collate
from ts4s_core.training.batches.batch_plan import BatchPlan
from ts4s_core.training.batches.read_ahead import planned_steps
from ts4s_core.training.checkpoints.scratch_files import scratch_file, write_tensors
from ts4s_core.training.control.messages import Started, Stepped
from ts4s_core.training.driver.attempts import largest_divisor
from ts4s_core.training.driver.metrics import Metrics, as_csv, padding_fraction, speed
from ts4s_core.training.optimizers.schedule import learning_rate
from ts4s_core.training.settings_checks import step_key_settings
from ts4s_core.training.step.objectives import objective_for
from ts4s_core.training.worker.assembly import resolve


def block(lengths: list[int], labels: np.ndarray) -> RowBlock:
    tokens = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    return RowBlock(tokens, np.concatenate([[0], np.cumsum(lengths)]), labels, [bytes([row] * 16) for row in range(len(lengths))])


def test_parts_are_padded_to_their_longest():
    batch = collate(block([2, 3, 1], np.array([5, 6, 7])), np.array([2, 0]), pad_id=9)
    assert batch.input_ids.tolist() == [[6, 9], [1, 2]]
    assert batch.attention_mask.tolist() == [[1, 0], [1, 1]]
    assert (batch.labels.tolist(), batch.tokens, batch.padded_tokens) == ([7, 5], 3, 4)


def test_objectives_are_sums_with_their_counts():
    torch.manual_seed(0)
    batch = collate(block([2, 3], np.array([2, 0])), np.array([0, 1]), pad_id=0)
    logits = torch.randn(2, 3)
    plain = objective_for("classification")(logits, batch)
    assert float(plain.total) == pytest.approx(float(F.cross_entropy(logits, batch.labels, reduction="sum")))
    assert (plain.items, plain.value) == (2.0, pytest.approx(float(plain.total)))
    weighted = objective_for("classification", [0.5, 1.0, 2.0])(logits, batch)
    assert weighted.items == 2.5
    assert float(weighted.total) / 2.5 == pytest.approx(
        float(F.cross_entropy(logits, batch.labels, weight=torch.tensor([0.5, 1, 2])))
    )

    hot = collate(block([2, 3], np.eye(3, dtype=np.float32)[:2]), np.array([0, 1]), pad_id=0)
    many = objective_for("multi-label")(logits, hot)
    assert float(many.total) / many.items == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, hot.labels)))

    tokens = torch.randn(2, 3, 12)
    language = objective_for("language-model")(tokens, batch)
    assert language.items == 3  # one target in the row of two tokens, two in the row of three
    targets = [(0, 0, 2), (1, 0, 4), (1, 1, 5)]
    expected = sum(-float(F.log_softmax(tokens[row, place], 0)[token]) for row, place, token in targets)
    assert language.value == pytest.approx(expected)


def test_the_rate_rises_and_falls():
    rates = [learning_rate(step, total_steps=10, highest=1.0, warmup_fraction=0.3) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([1 - place / 7 for place in range(1, 7)])
    assert [learning_rate(step, total_steps=1, highest=2.0, warmup_fraction=0.1) for step in range(1)] == [2.0]


def test_a_run_that_starts_in_the_middle_takes_the_same_steps():
    rows = ToyRows(1_500, group=8)  # 188 row groups: three windows an epoch
    plan = BatchPlan(rows.rows_per_group("train"), 30, 4, 0)
    stop = plan.total_steps(2)
    whole = list(planned_steps(rows, "train", plan, first=0, stop=stop))
    assert [planned.step for planned in whole] == list(range(stop))
    assert [planned.step for planned in whole if planned.ends_epoch] == [plan.steps_in_epoch(0) - 1, stop - 1]
    for first in (1, 20, plan.steps_in_epoch(0), stop - 1, stop):
        rest = list(planned_steps(rows, "train", plan, first=first, stop=stop))
        assert [planned.step for planned in rest] == list(range(first, stop))
        for again, planned in zip(rest, whole[first:], strict=True):
            assert [again.block.sample_ids(part) for part in again.parts] == [
                planned.block.sample_ids(part) for part in planned.parts
            ]


def test_settings_that_bear_on_the_weights():
    base = TrainSettings()
    same = TrainSettings(workers=2, max_restarts=9, timeout_s=5, checkpoint_every_steps=1)
    assert step_key_settings(base, workers=1) == step_key_settings(same, workers=2)
    for name, value in {"threads_per_worker": 2, "logical_shards": 8, "seed": 1, "max_steps": 3}.items():
        assert step_key_settings(TrainSettings(**{name: value}), workers=1) != step_key_settings(base, workers=1)
    averaging = TrainSettings(strategy="averaging")
    assert step_key_settings(averaging, workers=1) != step_key_settings(averaging, workers=2)
    assert [largest_divisor(4, at_most=slots) for slots in (0, 1, 2, 3, 4, 9)] == [1, 1, 2, 2, 4, 4]


def test_metrics_of_a_resumed_run_have_each_step_once():
    shown = []
    metrics = Metrics(lambda stage, fields: shown.append((stage, dict(fields))))
    rows = [step_row(step) for step in range(1, 6)]
    metrics.listen(0, Started(step=0, steps=6))
    metrics.listen(0, Stepped(rows=rows))
    metrics.go_on_from(rows[:3])
    metrics.listen(0, Started(step=3, steps=6))
    metrics.listen(0, Stepped(rows=rows[3:4]))
    assert [found.step for found in metrics.rows()] == [1, 2, 3, 4]
    assert shown[-1] == ("train", {"step": 4, "steps": 6, "loss": 0.5, "tokens_per_s": 900, "seconds_left": 0.2})
    assert speed(metrics.rows()) == pytest.approx(900)
    assert padding_fraction(metrics.rows()) == pytest.approx(0.1)
    assert as_csv(rows[:1]).decode().splitlines() == [
        "step,epoch,loss,accuracy,validation_loss,learning_rate,grad_norm,predictions,tokens,padded_tokens,tokens_per_s,"
        "milliseconds,memory,memory_per_worker",
        "1,0,0.5,,,1.0,1.0,0,90,100,900.0,100.0,1.0,",
    ]


def test_factories_are_named_and_missing_ones_refused():
    assert resolve("toy:model").__name__ == "model"
    for name in ("toy:nothing", "no_such_module:x", "toy:VOCABULARY", "toy"):
        with pytest.raises(InputError, match="cannot be used"):
            resolve(name)


def test_scratch_files_have_no_name_and_hold_what_safetensors_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tensors = {
        "b/ü": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.array(3, np.int64),
        "none": np.zeros((0, 4), np.float32),
        "c": np.array([True]),
    }
    with scratch_file() as path:
        write_tensors(path, tensors)
        assert list(tmp_path.iterdir()) == []
        found = safetensors.numpy.load(path.read_bytes())
    assert found.keys() == tensors.keys()
    assert all((found[name] == tensors[name]).all() and found[name].shape == tensors[name].shape for name in tensors)
    with scratch_file() as path, pytest.raises(UnsupportedModelError, match="complex64"):
        write_tensors(path, {"z": np.zeros(1, np.complex64)})
