"""Batch inference over the rows of a dataset side, spread by a data engine.

Notation: B rows in a batch, T tokens, C classes. Rows are cut into chunks of row groups whatever runs them, so that a row stands
in the same batch, and gets the same logits, for any number of executors.
"""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.evaluation.scoring.dataset_rows import Rows, row_groups, rows_of, sides_labels
from ts4s_core.evaluation.scoring.predictions import ID_DTYPE, Predictions
from ts4s_core.models.length_batches import length_batches, padded
from ts4s_core.process_state import PROCESS
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import StorageSettings

if TYPE_CHECKING:
    from ts4s_core.evaluation.scoring.scorer import Scorer

ROW_GROUPS_PER_CHUNK = 4
CHUNKS_PER_WAVE = 16
MOST_WAVES = 10
#: Padded tokens of a batch at most; bounds the memory of activations whatever max_length is.
TOKENS_PER_BATCH = 8_192
STAGE = "evaluate"


@dataclass(frozen=True)
class ScoreJob:
    """What a worker needs to score some row groups; carried to executors by value."""

    storage: StorageSettings
    trained: str
    dataset: str
    side: str
    threads: int


def predict_rows(
    store: ArtifactStore,
    engine: DataEngine,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    side: str = "test",
    threads: int = 1,
    progress: Progress = silent,
) -> Predictions:
    """Score every row of a dataset side with a trained model.

    The dataset's tokens are used where the model was trained on the same tokenizer and length; else the texts are tokenised anew
    with the model's own.

    Args:
        store: holds both artifacts.
        engine: runs the chunks.
        trained: the model, a ``trained`` artifact.
        dataset: the rows.
        side: ``train``, ``validation`` or ``test``.
        threads: threads of a worker.
        progress: called with the number of rows done.

    Raises:
        DataError: if the model answers other labels than the dataset has.
        IntegrityError: if a file of either is damaged.
        NonFiniteError: if the model gives a logit that is not finite.
    """
    job = ScoreJob(store.storage.settings, str(trained), str(dataset), side, threads)
    counts = row_groups(store, dataset, side)
    chunks = [
        list(range(len(counts)))[start : start + ROW_GROUPS_PER_CHUNK] for start in range(0, len(counts), ROW_GROUPS_PER_CHUNK)
    ]
    wave = max(CHUNKS_PER_WAVE, -(-len(chunks) // MOST_WAVES))
    results: list[dict[str, str]] = []
    for start in range(0, len(chunks), wave):
        results += engine.map(functools.partial(_score_chunk, job), chunks[start : start + wave], stage=STAGE)
        done = sum(counts[: (start + wave) * ROW_GROUPS_PER_CHUNK])
        progress(STAGE, {"row": done, "rows": sum(counts), "model": f"{trained.name}/{trained.version}"})
    labels, multi_label = sides_labels(store, dataset)
    return _joined(results, classes=len(labels), multi_label=multi_label)


def _joined(results: Sequence[dict[str, str]], *, classes: int, multi_label: bool) -> Predictions:
    ids = np.concatenate([np.empty(0, ID_DTYPE), *(_unpacked(result["ids"], ID_DTYPE) for result in results)])
    truth = np.concatenate([np.empty(0, np.bool_), *(_unpacked(result["truth"], np.bool_) for result in results)])
    logits = np.concatenate([np.empty(0, np.float32), *(_unpacked(result["logits"], np.float32) for result in results)])
    return Predictions(ids, truth.reshape(-1, classes), logits.reshape(-1, classes), multi_label)


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _unpacked(text: str, dtype: Any) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def _score_chunk(job: ScoreJob, indices: Sequence[int]) -> dict[str, str]:
    store = ArtifactStore.open(job.storage)
    scorer = _scorer_of(job, store)
    rows = rows_of(store, ArtifactRef.parse(job.dataset), side=job.side, indices=indices, texts=scorer.needs_texts)
    logits = score(scorer, rows, threads=job.threads)
    return {"ids": _packed(rows.ids), "truth": _packed(rows.truth), "logits": _packed(logits)}


def _scorer_of(job: ScoreJob, store: ArtifactStore) -> Scorer:
    """The model, loaded once in a process for all its chunks."""
    from ts4s_core.evaluation.scoring.scorer import Scorer

    key = (job.storage, job.trained, job.dataset)
    trained, dataset = ArtifactRef.parse(job.trained), ArtifactRef.parse(job.dataset)
    return PROCESS.get_or_make("scorer", key, lambda: Scorer.load(store, trained=trained, dataset=dataset))


def score(scorer: Scorer, rows: Rows, *, threads: int) -> npt.NDArray[np.float32]:
    """Logits (N, C) of some rows, in their order, with the classes in the dataset's order."""
    import torch

    tokens = scorer.tokenized(rows.texts) if scorer.needs_texts else rows.tokens
    logits = np.empty((len(tokens), len(scorer.columns)), dtype=np.float32)
    with threads_set(threads):
        for batch in length_batches([len(row) for row in tokens], tokens=TOKENS_PER_BATCH):
            ids, mask = padded([tokens[row] for row in batch], pad_id=scorer.pad_id)
            with torch.inference_mode():
                found = scorer.model(torch.from_numpy(ids), torch.from_numpy(mask))
            logits[batch] = found.numpy()[:, scorer.columns]
    return logits


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Let torch compute with so many threads, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
