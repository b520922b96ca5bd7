"""Whole runs in worker processes, on a toy model with two kinds of dropout, frozen and unused parameters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from toy import ToyRows

from ts4s_core.artifacts.leases.lease import Lease
from ts4s_core.errors import LeaseHeldError, NonFiniteError, WorkerFailedError, WorkerLostError
from ts4s_core.training.checkpoints.listing import checkpoints
from ts4s_core.training.checkpoints.writer import KEPT
from ts4s_core.training.driver.local_launcher import LocalLauncher


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ledger(folder: Path) -> dict[tuple[int, int], str]:
    """(step, part) -> samples, over all ranks and attempts; a repeated step must repeat its samples."""
    found: dict[tuple[int, int], str] = {}
    for path in sorted(folder.iterdir()):
        for row in table(path):
            assert found.setdefault((int(row["step"]), int(row["part"])), row["samples"]) == row["samples"]
    return found


def test_any_number_of_workers_and_either_exchange_give_one_hash(run, store, tmp_path: Path):
    # 70 rows in batches of 12: an uneven last batch. Clipping is on by default.
    cases = {"w1": (1, "auto"), "w2": (2, "shared-memory"), "w2n": (2, "network"), "w4": (4, "auto")}
    results = {
        name: run(name=name, workers=workers, exchange=exchange, ledger=tmp_path / name)
        for name, (workers, exchange) in cases.items()
    }
    facts = {name: result.facts for name, result in results.items()}
    assert len({found["weights_sha256"] for found in facts.values()}) == 1
    assert [found["workers"] for found in facts.values()] == [1, 2, 2, 4]
    assert facts["w1"]["steps"] == 12
    ledgers = {name: ledger(tmp_path / name) for name in cases}
    assert ledgers["w1"] == ledgers["w2"] == ledgers["w2n"] == ledgers["w4"]
    epoch = [sample for (step, _), samples in ledgers["w1"].items() if step <= 6 for sample in samples.split()]
    assert len(epoch) == len(set(epoch)) == 70

    folder = store.local(results["w1"].ref)
    metrics = table(folder / "metrics.csv")
    assert [int(row["step"]) for row in metrics] == list(range(1, 13))
    assert float(metrics[-1]["loss"]) < float(metrics[0]["loss"])
    assert "head.weight" in load_file(folder / "model.safetensors")


def test_a_training_is_found_until_code_that_it_reaches_changes(run, edited):
    first = run(max_steps=1, reuse=True)
    edited("evaluation/report/page.py")
    again = run(max_steps=1, reuse=True)
    assert (again.ref, again.reused) == (first.ref, True)
    edited("training/worker/loop.py")
    anew = run(max_steps=1, reuse=True)
    assert (anew.reused, anew.facts["weights_sha256"]) == (False, first.facts["weights_sha256"])


def test_workers_write_under_the_lease_of_who_began_the_run(run, store):
    """The command holds it, in another process than theirs: once it is lost they seal no checkpoint, and nobody tries again."""
    with Lease.hold(store, "toy") as lease:
        fence = store.storage.folder / lease.fence.path
        # Four parts a step, all in one worker: forward 60 is the last of step 15, between the checkpoints of steps 12 and 24.
        extra = {"what": "delete once a checkpoint is sealed", "at": 60, "mark": str(fence)}
        with pytest.raises(LeaseHeldError, match="Lease of toy was lost"):
            run(workers=1, checkpoint_every_steps=12, epochs=6, max_restarts=3, extra=extra)
    sealed = [store.manifest(ref).settings["step"] for ref in store.versions("checkpoint", "toy")]
    assert (sealed, store.versions("trained", "toy")) == ([12], [])


def test_steps_take_as_long_as_they_wait_for_their_rows(run, store):
    """Three epochs of one window each, read by one thread: no step of the third can begin before 3 s."""
    result = run(epochs=3, extra={"read_s": 1.0})
    milliseconds = [float(row["milliseconds"]) for row in table(store.local(result.ref) / "metrics.csv")]
    assert len(milliseconds) == 18
    assert sum(milliseconds) > 3_000


def test_fewer_rows_than_parts(run):
    """Batches of 3 rows in 4 parts: an empty part in every step, and a last batch of one row."""
    hashes = {
        run(name=f"w{workers}", workers=workers, batch_size=3, max_steps=5, extra={"rows": 13}, max_grad_norm=0.05).facts[
            "weights_sha256"
        ]
        for workers in (1, 4)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("exchange", ["shared-memory", "network"])
def test_resumed_runs_end_as_the_undisturbed_one(run, store, tmp_path: Path, exchange: str):
    whole = run(name="whole", workers=1).facts
    extra = {"what": "kill", "at": 8, "mark": str(tmp_path / "killed")}
    # With two workers of two parts each, forward 8 of a worker is in its step 4; K = 4.
    resumed = run(name="killed", workers=2, exchange=exchange, extra=extra, checkpoint_every_steps=1).facts
    assert (tmp_path / "killed").exists()
    assert resumed["restarts"] == 1
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["steps"] == 12

    # A version that is sealed is never gone on from: its checkpoints went at the seal.
    assert store.versions("checkpoint", "killed") == []


def test_the_same_command_goes_on_with_another_number_of_workers(run, store, tmp_path: Path):
    whole = run(name="whole", workers=1, epochs=10).facts
    # In step 50 of 60: some checkpoints are sealed by then, however slow the disk.
    extra = {"what": "kill", "at": 100, "mark": str(tmp_path / "killed")}
    with pytest.raises(WorkerLostError):
        run(name="killed", workers=2, epochs=10, extra=extra, checkpoint_every_steps=1, max_restarts=0)
    kept = store.versions("checkpoint", "killed")
    # A checkpoint that falls due while one is being written is left out, so only the most is known:
    # one more than are kept, where the kill comes between the seal of the newest and the oldest's end.
    assert 1 <= len(kept) <= KEPT + 1
    steps = [store.manifest(ref).settings["step"] for ref in kept]
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert checkpoints(store, "killed", store.manifest(kept[-1]).key) == kept[::-1]
    again = run(name="killed", workers=4, epochs=10, extra=extra)
    assert again.facts["weights_sha256"] == whole["weights_sha256"]
    rows = table(store.local(again.ref) / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 61))
    assert store.versions("checkpoint", "killed") == []


@pytest.mark.parametrize("exchange", ["shared-memory", "network"])
def test_a_stopped_worker_is_noticed(run, tmp_path: Path, exchange: str):
    extra = {"what": "stop", "at": 3, "mark": str(tmp_path / "stopped")}
    with pytest.raises(WorkerLostError, match=r"Worker [01] on .* was silent for \d+ s"):
        run(workers=2, exchange=exchange, extra=extra, timeout_s=3, max_restarts=0)


def test_a_worker_that_cannot_start_is_tried_twice(run, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    launcher = LocalLauncher(threads_per_worker=1, python_path=[str(tmp_path)])
    with pytest.raises(WorkerFailedError, match=r"ended with code 1: ImportError: no torch here"):
        run(workers=1, launcher=launcher)
    assert sum("training attempt failed, restart" in message for message in caplog.messages) == 1


def test_a_loss_that_is_not_finite_stops_all_before_the_update(run, store, tmp_path: Path):
    extra = {"what": "nan", "at": 5, "mark": str(tmp_path / "nan")}
    book = tmp_path / "ledger"
    with pytest.raises(NonFiniteError, match=r"step 3 .* in part [0-3] \(samples") as failure:
        run(workers=2, extra=extra, ledger=book, checkpoint_every_steps=1)
    part = int(str(failure.value).split("in part ")[1][0])
    assert all(sample in str(failure.value) for sample in ledger(book)[(3, part)].split())
    assert store.versions("trained", "toy") == []


def test_a_gradient_that_is_not_finite_stops_all_before_the_update(run, store, tmp_path: Path):
    """The loss is as it should be; the gradient of every part that has one word is not."""
    rows = ToyRows(70)
    block = rows.read("train", range(len(rows.rows_per_group("train"))))
    words, counts = np.unique(block.tokens, return_counts=True)
    word = int(words[counts == 1][0])
    row = int(np.searchsorted(block.offsets, np.flatnonzero(block.tokens == word)[0], side="right") - 1)
    book = tmp_path / "ledger"
    extra = {"what": "nan gradient of a word", "at": word, "mark": ""}
    with pytest.raises(NonFiniteError, match=r"Loss or gradient of step \d+ is not finite in part [0-3] \(samples") as failure:
        run(workers=2, extra=extra, ledger=book, checkpoint_every_steps=1)
    sample = block.sample_ids([row])[0]
    (at,) = [at for at, samples in ledger(book).items() if sample in samples.split()]
    assert f"step {at[0]} is not finite in part {at[1]} (samples " in str(failure.value)
    assert sample in str(failure.value)
    assert max(step for step, _part in ledger(book)) == at[0]


def test_early_stopping_keeps_the_best_weights(run, store):
    values = {"epochs": 12, "early_stopping_patience": 1, "learning_rate": 0.3, "checkpoint_every_steps": 7}
    facts = [run(name=f"w{workers}", workers=workers, **values).facts for workers in (1, 2)]
    assert facts[0]["weights_sha256"] == facts[1]["weights_sha256"]
    assert facts[0]["validation_loss"] == facts[1]["validation_loss"]
    assert facts[0]["best_step"] + 6 == facts[0]["steps"] < 72


def test_workers_follow_the_slots_that_are_left(run, tmp_path: Path):
    class Shrinking(LocalLauncher):
        asked = 0

        def slots(self) -> int:
            self.asked += 1
            return 4 if self.asked < 3 else 1

    here = str(Path(__file__).parent)
    extra = {"what": "kill", "at": 2, "mark": str(tmp_path / "killed")}
    facts = run(extra=extra, max_steps=4, launcher=Shrinking(threads_per_worker=1, python_path=[here])).facts
    assert (facts["restarts"], facts["workers"]) == (1, 1)
    assert np.isfinite(facts["tokens_per_s"])
