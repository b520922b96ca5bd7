"""Whole runs of the strategies in which workers step apart, on the toy model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ts4s_core.errors import NonFiniteError, TrainingError
from ts4s_core.training.driver.local_launcher import LocalLauncher

HERE = str(Path(__file__).parent)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def killed(tmp_path: Path, at: int) -> dict[str, object]:
    return {"what": "kill", "at": at, "mark": str(tmp_path / "killed")}


@pytest.mark.parametrize("frequency", [pytest.param(0, marks=pytest.mark.long), 4])
def test_averaging_gives_one_hash_at_a_fixed_number_of_workers_killed_or_not(run, store, tmp_path: Path, frequency: int):
    settings = {"strategy": "averaging", "averaging_frequency": frequency, "workers": 2}
    whole = run(name="whole", exchange="network", **settings)
    resumed = run(name="killed", extra=killed(tmp_path, 16), checkpoint_every_steps=1, **settings).facts
    assert (tmp_path / "killed").exists()
    assert resumed["restarts"] == 1
    assert resumed["weights_sha256"] == whole.facts["weights_sha256"]
    # 12 steps: two epochs of 6, or joins after steps 4, 8 and 12.
    assert resumed["averages"] == whole.facts["averages"] == (3 if frequency else 2)
    rows = table(store.local(whole.ref) / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.long
def test_averaging_of_every_step_sees_the_same_items_as_synchronous_training(run, store):
    apart = run(name="apart", strategy="averaging", averaging_frequency=1, workers=2, max_steps=3)
    exact = run(name="exact", workers=1, max_steps=3)
    rows = [table(store.local(result.ref) / "metrics.csv") for result in (apart, exact)]
    assert [row["tokens"] for row in rows[0]] == [row["tokens"] for row in rows[1]]
    # Before the first update both know the same weights.
    assert float(rows[0][0]["loss"]) == pytest.approx(float(rows[1][0]["loss"]), abs=1e-12)
    assert float(rows[0][2]["loss"]) == pytest.approx(float(rows[1][2]["loss"]), rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["averaging", "hogwild"])
def test_one_worker_alone_steps_as_the_synchronous_one_does(run, strategy: str):
    hashes = {run(name=name, strategy=name, workers=1).facts["weights_sha256"] for name in ("synchronous", strategy)}
    assert len(hashes) == 1


def test_averaging_does_not_go_on_with_fewer_workers(run, tmp_path: Path):
    class Shrinking(LocalLauncher):
        asked = 0

        def slots(self) -> int:
            self.asked += 1
            return 4 if self.asked < 2 else 1

    launcher = Shrinking(threads_per_worker=1, python_path=[HERE])
    with pytest.raises(TrainingError, match="expected slots for 2 workers, because its result depends on their number, got 1"):
        run(strategy="averaging", workers=2, extra=killed(tmp_path, 2), launcher=launcher)


def test_hogwild_reports_its_staleness_and_loses_no_more_than_it_says(run, store, tmp_path: Path):
    seen: list[tuple[int, str]] = []

    def progress(stage: str, fields: dict[str, object]) -> None:
        seen.append((int(str(fields.get("step", -1))), stage))

    settings = {"strategy": "hogwild", "workers": 2, "checkpoint_every_steps": 4, "epochs": 3}
    book = tmp_path / "ledger"
    result = run(name="hogwild", extra=killed(tmp_path, 22), progress=progress, ledger=book, **settings)
    facts = result.facts
    assert facts["restarts"] == 1
    assert facts["reproducible"] is False
    # Forward 22 of a worker with two parts a step is in its step 11: checkpoints of steps 2, 4, ... are sealed in turn.
    again = [path for path in sorted(book.iterdir()) if "-001-" in path.name]
    first = min(int(row["step"]) for path in again for row in table(path))
    assert first > 11 - 4
    staleness = facts["staleness"]
    counts = {int(stale): count for stale, count in staleness["histogram"].items()}
    assert sum(counts.values()) == staleness["updates"]
    # Two ranks push to two owners in each of 18 steps; what the killed attempt did after its checkpoint is not counted.
    assert staleness["updates"] == 18 * 2 * 2
    assert staleness["max"] == max(counts)
    assert staleness["mean"] == pytest.approx(sum(stale * count for stale, count in counts.items()) / 72, abs=1e-4)
    folder = store.local(result.ref)
    assert json.loads((folder / "training.json").read_text(encoding="utf-8"))["staleness"] == staleness
    rows = table(folder / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 19))
    assert all(float(row["staleness"]) >= 0 for row in rows)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.parametrize("strategy", ["averaging", pytest.param("hogwild", marks=pytest.mark.long)])
def test_early_stopping_is_decided_alike_and_keeps_the_best_weights(run, store, strategy: str):
    values = {"epochs": 12, "early_stopping_patience": 1, "learning_rate": 0.3, "checkpoint_every_steps": 7}
    result = run(strategy=strategy, workers=2, **values)
    facts = result.facts
    assert facts["best_step"] + 6 == facts["steps"] < 72
    assert facts["validation_loss"] < 2.0
    assert [int(row["step"]) for row in table(store.local(result.ref) / "metrics.csv")][-1] == facts["steps"]


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["averaging", "hogwild"])
def test_a_loss_that_is_not_finite_stops_all(run, store, tmp_path: Path, strategy: str):
    extra = {"what": "nan", "at": 5, "mark": str(tmp_path / "nan")}
    with pytest.raises(NonFiniteError, match=r"step 3 is not finite in part [0-3] \(samples"):
        run(strategy=strategy, workers=2, extra=extra)
    assert store.versions("trained", "toy") == []
