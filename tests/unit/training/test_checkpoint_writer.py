"""Checkpoints of several ranks, each with a thread of its own that meets the others'."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from waiting import wait_for

from ts4s_core.artifacts.store import ArtifactStore, ArtifactWriter
from ts4s_core.errors import ConflictError
from ts4s_core.training.checkpoints import writer as writing
from ts4s_core.training.checkpoints.listing import checkpoints
from ts4s_core.training.checkpoints.state import Snapshot
from ts4s_core.training.checkpoints.training_progress import TrainingProgress
from ts4s_core.training.checkpoints.writer import CheckpointWriter
from ts4s_core.training.job import TrainJob

KEY = "1a2b3c4d" + "0" * 56
JOB = TrainJob(name="demo", key=KEY, dataset="", model="", output="trained/demo/1", task="classification", train={}, storage={})
RANKS = 2


class Meeting:
    """What the control channel does for checkpoints: every rank gets what all have brought."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._brought: dict[str, dict[int, Any]] = {}

    def of(self, rank: int) -> Any:
        def gather(key: str, value: Any, *, timeout_s: float) -> list[Any]:
            with self._news:
                brought = self._brought.setdefault(key, {})
                brought[rank] = value
                self._news.notify_all()
                assert self._news.wait_for(lambda: len(brought) == RANKS, timeout=timeout_s)
                return [brought[peer] for peer in range(RANKS)]

        return SimpleNamespace(gather=gather)


def snapshot(step: int, *, rank: int) -> Snapshot:
    progress = TrainingProgress()
    progress.step = step
    weights = {"w": np.zeros(3, dtype=np.float32)} if rank == 0 else None
    return Snapshot(progress, {f"exp_avg/0/{rank}/{rank + 1}": torch.zeros(1)}, weights, None)


@pytest.mark.parametrize("refused", ["begin", "share"])
def test_a_checkpoint_that_cannot_be_written_holds_up_no_rank(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Whatever goes wrong on one rank: the others go on at once, and the next checkpoint is written."""
    meeting, left = Meeting(), [True]
    writers = [CheckpointWriter(JOB, store, meeting.of(rank), rank=rank) for rank in range(RANKS)]
    begin, write = store.begin, writing.write_tensors

    def begins(*words: Any, **options: Any) -> ArtifactWriter:
        if refused == "begin" and left:
            left.clear()
            raise ConflictError("its place was taken away")
        return begin(*words, **options)

    def writes(*words: Any, **options: Any) -> object:
        if refused == "share" and left:
            left.clear()
            raise RuntimeError("out of memory")
        return write(*words, **options)

    monkeypatch.setattr(store, "begin", begins)
    monkeypatch.setattr(writing, "write_tensors", writes)
    for step in (6, 12):
        for rank, writer in enumerate(writers):
            writer.write(snapshot(step, rank=rank))
        assert wait_for(lambda: not any(writer.busy for writer in writers), 60)
    assert [store.manifest(ref).settings["step"] for ref in checkpoints(store, "demo", KEY)] == [12]
    assert not left
