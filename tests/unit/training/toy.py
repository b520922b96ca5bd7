"""A tiny model and synthetic rows that workers import by name: what the engine's tests train."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.onnx.seeded_dropout import SeededDropout, seed_dropout
from ts4s_core.training.batches.batch import RowBlock
from ts4s_core.training.job import TrainJob
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step_rows import StepRow

VOCABULARY, WIDTH, CLASSES = 3_000, 24, 3  # a table large enough that its gradient comes as rows


class Toy(nn.Module):
    """Embedding, attention-free mixing, two kinds of dropout, a frozen and an unused parameter."""

    def __init__(self, seed: int = 0, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(requires_grad=False)
        self.mix = nn.Linear(WIDTH, 4 * WIDTH)
        self.back = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.ours = SeededDropout(0.2)
        self.torchs = nn.Dropout(0.1)
        self.unused = nn.Parameter(torch.ones(5, 7))
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.frozen(self.embedding(input_ids))
        hidden = self.norm(hidden + self.back(self.ours(torch.nn.functional.gelu(self.mix(hidden)))))
        mask = attention_mask.unsqueeze(-1).float()
        return self.head(self.torchs((hidden * mask).sum(1) / mask.sum(1)))


class Saboteur(nn.Module):
    """Does something bad once at a given forward of a worker: see ``extra`` of the job."""

    def __init__(self, inner: nn.Module, *, at: int, rank_file: Path, what: str) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0
        self.at, self.rank_file, self.what = at, rank_file, what

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = self.inner(input_ids, attention_mask)
        if self.what == "nan gradient of a word":
            if self.training and bool((input_ids == self.at).any()):
                logits.register_hook(lambda gradient: gradient * float("nan"))
            return logits
        self.calls += self.training
        if self.what == "delete once a checkpoint is sealed":
            if self.calls == self.at:
                self._wait_for_a_checkpoint()
                self.rank_file.unlink()
            return logits
        if self.training and self.calls == self.at and self._first():
            if self.what == "nan":
                return logits * float("nan")
            os.kill(os.getpid(), signal.SIGKILL if self.what == "kill" else signal.SIGSTOP)
        return logits

    def _wait_for_a_checkpoint(self) -> None:
        """Until one is in the store, the folder that ``rank_file`` is somewhere in."""
        until = time.monotonic() + 120
        store = next(folder for folder in self.rank_file.parents if (folder / "checkpoint").is_dir())
        while not any(store.glob("checkpoint/*/*/manifest.json")):
            assert time.monotonic() < until, "no checkpoint was sealed"
            time.sleep(0.05)

    def _first(self) -> bool:
        try:
            self.rank_file.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def model(job: TrainJob, _store: ArtifactStore) -> BuiltModel:
    module: nn.Module = Toy()
    names = {}
    if "what" in job.extra:
        module = Saboteur(module, at=job.extra["at"], rank_file=Path(job.extra["mark"]), what=job.extra["what"])
        names = {name: name.removeprefix("inner.") for name, _ in module.named_parameters()}
    return BuiltModel(module, seed_dropout, names=names)


class ToyRows:
    """Rows whose words tell the class, lengths log-normal; a fixed function of the seed."""

    pad_id = 0

    def __init__(self, train: int, validation: int = 60, group: int = 16, read_s: float = 0.0) -> None:
        self._sides = {"train": train, "validation": validation}
        self._group = group
        self._read_s = read_s

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        rows = self._sides[side]
        return tuple(min(self._group, rows - start) for start in range(0, rows, self._group))

    def read(self, side: str, groups: Sequence[int]) -> RowBlock:
        time.sleep(self._read_s)
        rows = [row for group in groups for row in range(group * self._group, min((group + 1) * self._group, self._sides[side]))]
        texts, labels = [], []
        for row in rows:
            random = np.random.default_rng([row, side == "train"])
            label = int(random.integers(CLASSES))
            length = int(np.clip(random.lognormal(2.2, 0.6), 2, 40))
            texts.append(1 + label * 40 + random.integers(0, 60, length))
            labels.append(label)
        ids = [hashlib.sha256(f"{side}/{row}".encode()).digest()[:16] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        return RowBlock(np.concatenate(texts).astype(np.int32), offsets, np.array(labels, np.int64), ids)


def rows(job: TrainJob, _store: ArtifactStore) -> ToyRows:
    return ToyRows(job.extra.get("rows", 70), read_s=job.extra.get("read_s", 0.0))


def step_row(step: int) -> StepRow:
    """A row of ``metrics.csv``: 90 of 100 tokens are real, in a tenth of a second."""
    return StepRow(
        step=step,
        epoch=0,
        loss=0.5,
        learning_rate=1.0,
        grad_norm=1.0,
        tokens=90,
        padded_tokens=100,
        tokens_per_s=900.0,
        milliseconds=100.0,
        memory=1.0,
    )
