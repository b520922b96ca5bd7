"""A run with a longer history than any message of the control channel may be goes on, and loses no row of it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import WorkerLostError
from ts4s_core.training.checkpoints.training_progress import STATE_FILE
from ts4s_core.training.control.messages import MAX_LINE_BYTES

#: 183,859 rows of four workers are as long as a message may be.
DONE, MORE = 200_000, 3
MEMORY = ";".join(["123.4"] * 4)


def test_a_history_beyond_any_message_is_gone_on_with(run, store: ArtifactStore, tmp_path: Path):
    settings = {"workers": 1, "max_steps": DONE + MORE, "epochs": 2_300}
    extra = {"rows": 1_200, "what": "kill", "at": 100, "mark": str(tmp_path / "killed")}
    with pytest.raises(WorkerLostError):
        run(name="long", reuse=True, extra=extra, max_restarts=0, checkpoint_every_steps=2, **settings)
    (short, *_older) = reversed(store.versions("checkpoint", "long"))
    lengthen(store, short, tmp_path / "lengthened")

    went_on = run(name="long", reuse=True, extra=extra, **settings)
    assert (went_on.facts["steps"], went_on.facts["restarts"]) == (DONE + MORE, 0)
    with (store.local(went_on.ref) / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, DONE + MORE + 1))
    assert {row["memory_per_worker"] for row in rows[:DONE]} == {MEMORY}
    assert [float(row["loss"]) for row in rows[:DONE:50_000]] == [1 / step for step in range(1, DONE, 50_000)]


def lengthen(store: ArtifactStore, ref, folder: Path) -> None:
    """Put a checkpoint in a checkpoint's place whose run has taken 186,000 steps."""
    shutil.copytree(store.local(ref), folder)
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    pattern = state["metrics"][-1]
    state["metrics"] = [pattern | {"step": step, "loss": 1 / step, "memory_per_worker": MEMORY} for step in range(1, DONE + 1)]
    state["step"] = DONE
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    assert len(json.dumps(state["metrics"])) > MAX_LINE_BYTES
    manifest = store.manifest(ref)
    later = manifest.settings | {"step": DONE}
    with store.begin("checkpoint", ref.name, manifest.key, settings=later, upstream={}) as writer:
        for file in manifest.files:
            writer.add_file(folder / file.path, file.path)
        writer.seal()
