"""Rows and a model to measure with where there is no dataset or no imported model yet: assumed lengths, the source's shape."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError
from ts4s_core.settings import ModelSettings
from ts4s_core.task_kinds.registry import kind_of
from ts4s_core.training.batches.batch import RowBlock
from ts4s_core.training.job import TrainJob
from ts4s_core.training.step.built_model import BuiltModel

#: Spread of the assumed log-normal lengths.
SIGMA = 0.6
ROWS_PER_GROUP = 256
_SHORTEST = 8
#: What configurations call it.
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


class AssumedRows:
    """Rows of log-normal lengths, words as rare as Zipf says; a fixed function of the row's number."""

    pad_id = 0

    def __init__(self, *, rows: int, tokens: int, longest: int, vocabulary: int) -> None:
        self._rows = rows
        self._tokens = tokens
        self._longest = longest
        self._vocabulary = vocabulary

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group; all sides are alike."""
        return tuple(min(ROWS_PER_GROUP, self._rows - start) for start in range(0, self._rows, ROWS_PER_GROUP))

    def read(self, side: str, groups: Sequence[int]) -> RowBlock:
        """Some row groups, in the order given."""
        texts, ids = [], []
        for group in groups:
            random = np.random.default_rng([group, 0x50])
            for row in range(self.rows_per_group(side)[group]):
                length = round(math.exp(random.normal(math.log(self._tokens), SIGMA)))
                length = min(max(length, min(_SHORTEST, self._longest)), self._longest)
                texts.append(np.minimum(random.zipf(1.2, length), self._vocabulary - 1))
                ids.append(hashlib.sha256(f"{group}/{row}".encode()).digest()[:16])
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        return RowBlock(np.concatenate(texts).astype(np.int32), offsets, np.zeros(len(texts), np.int64), ids)


def rows(job: TrainJob, _store: ArtifactStore) -> AssumedRows:
    """The assumed rows of a planning job."""
    given = job.extra["rows"]
    return AssumedRows(
        rows=int(given["rows"]),
        tokens=int(given["tokens"]),
        longest=int(given["longest"]),
        vocabulary=int(job.extra.get("vocabulary", 1_000)),
    )


class _WithHead(nn.Module):
    """A Hugging Face encoder with a linear head on the first token, or a causal model as it is."""

    def __init__(self, base: nn.Module, *, hidden: int, classes: int) -> None:
        super().__init__()
        self.base = base
        self.head = nn.Linear(hidden, classes) if classes else None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: Any = self.base(input_ids=input_ids, attention_mask=attention_mask)
        if self.head is None:
            return found.logits if hasattr(found, "logits") else found[0]  # type: ignore[no-any-return]
        states: torch.Tensor = found.last_hidden_state if hasattr(found, "last_hidden_state") else found[0]
        logits: torch.Tensor = self.head(states[:, 0])
        return logits


def model(job: TrainJob, store: ArtifactStore) -> BuiltModel:
    """A model of the source's shape with random weights and PyTorch's own dropout.

    Raises:
        SettingsError: if the source says nothing of its shape.
    """
    from ts4s_core.onnx.sources.families import build_module, config_object

    record = job.extra["config"]
    config = config_object(record, source=str(job.extra["source"]))
    hidden = getattr(config, "hidden_size", None) or getattr(config, "dim", None)
    if not hidden:
        raise SettingsError(f"model.source {job.extra['source']} does not say its hidden size: run ts4s import first, then plan")
    kind = kind_of(job.task)
    settings = ModelSettings(**job.extra["model"])
    for name in _ATTENTION_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, settings.attention_dropout)
    torch.manual_seed(0)
    base = build_module(config, kind.base)
    for module in base.modules():
        if isinstance(module, nn.Dropout) and settings.dropout is not None:
            module.p = settings.dropout
    whole = _WithHead(base, hidden=int(hidden), classes=0 if kind.head is None else max(2, settings.classes))
    if settings.freeze_encoder and kind.head is not None:
        base.requires_grad_(requires_grad=False)
    return BuiltModel(whole)
