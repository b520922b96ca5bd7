"""Sentences as training rows, which workers import by name: what is memorised."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.training.batches.text_windows import WindowBlock, window_block
from ts4s_core.training.job import TrainJob


class Sentences:
    """Every sentence is one row, from its first word on: what comes first is given, not predicted."""

    pad_id = 0

    def __init__(self, sentences: Sequence[Sequence[int]]) -> None:
        self._sentences = sentences

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        return (len(self._sentences),)

    def read(self, side: str, groups: Sequence[int]) -> WindowBlock:
        table = pa.table(
            {
                "id": [bytes([number] * 16) for number in range(len(self._sentences))],
                "input_ids": pa.array(self._sentences, pa.list_(pa.int32())),
                "starts": pa.array([[0]] * len(self._sentences), pa.list_(pa.int32())),
            }
        )
        return window_block(table, window=max(map(len, self._sentences)))


def rows(job: TrainJob, store: ArtifactStore) -> Sentences:
    return Sentences(job.extra["sentences"])


def optimum(sentences: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The best accuracy and the least loss (nats a token) that any model can have on these sentences.

    After a prefix that several sentences share, only their counts tell what follows: the likeliest is right that often,
    and the loss is the entropy.
    """
    after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for sentence in sentences:
        for place in range(1, len(sentence)):
            after[tuple(sentence[:place])][sentence[place]] += 1
    tokens = sum(sum(counts.values()) for counts in after.values())
    right = sum(max(counts.values()) for counts in after.values())
    nats = sum(-count * np.log(count / sum(counts.values())) for counts in after.values() for count in counts.values())
    return right / tokens, float(nats) / tokens
