"""How well a language model predicts text that it was not trained on.

Every token after a block's begin token is predicted once, from at least half a window of tokens before it wherever the block
has them. Bits per byte compare models with different tokenizers, so whatever a tokenizer leaves out is charged: a first token
without a begin token before it costs log2 of the vocabulary, the bytes of unknown tokens 8 bits each.

Notation: N blocks, B windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.corpus.tokens import TextTokenizer
from ts4s_core.data.corpus.window_starts import starts_of
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import NonFiniteError
from ts4s_core.evaluation.scoring.predictions import ID_DTYPE
from ts4s_core.evaluation.scoring.score_rows import STAGE, ScoreJob, threads_set
from ts4s_core.models.length_batches import length_batches
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.process_state import PROCESS
from ts4s_core.progress import Progress, silent

if TYPE_CHECKING:
    from ts4s_core.models.trainable import TrainableModel
    from ts4s_core.training.batches.text_windows import WindowBlock

WINDOWS_PER_CHUNK = 2_048
CHUNKS_PER_WAVE = 8
#: Logits of a batch at most (x 4 bytes), and its tokens.
LOGITS_PER_BATCH, TOKENS_PER_BATCH = 2**24, 8_192
BITS_OF_UNKNOWN_BYTE = 8.0
TOKENIZER = "tokenizer/"
_COLUMNS = ("id", "input_ids", "bytes", "unknown_bytes", "text")
_FIELDS = ("nats", "bits", "tokens", "correct", "size")


@dataclass(frozen=True)
class LanguageScores:
    """What a model made of N blocks of text, in the dataset's order.

    Attributes:
        ids: (N,) S16.
        nats: (N,) negative log-likelihood of the predicted tokens.
        bits: (N,) bits that the whole text costs, what the tokenizer leaves out included.
        tokens: (N,) predicted tokens.
        correct: (N,) of these, those that were the likeliest.
        size: (N,) bytes of the text.
    """

    ids: npt.NDArray[np.bytes_]
    nats: npt.NDArray[np.float64]
    bits: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.float64]
    correct: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]

    def only(self, rows: npt.NDArray[np.bool_]) -> LanguageScores:
        """Some blocks: a mask (N,)."""
        return LanguageScores(self.ids[rows], *(getattr(self, name)[rows] for name in _FIELDS))

    def metrics(self) -> dict[str, float]:
        """``loss`` (nats a token), ``perplexity``, ``bits_per_byte``, ``next_token_accuracy`` over all blocks."""
        tokens = max(float(self.tokens.sum()), 1.0)
        loss = float(self.nats.sum()) / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": float(self.bits.sum()) / max(float(self.size.sum()), 1.0),
            "next_token_accuracy": float(self.correct.sum()) / tokens,
        }


def score_text(
    store: ArtifactStore,
    engine: DataEngine,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    side: str = "test",
    threads: int = 1,
    progress: Progress = silent,
) -> LanguageScores:
    """Score every block of a dataset side; its text is tokenised anew where the model has another tokenizer.

    Raises:
        IntegrityError: if a file of either is damaged.
        NonFiniteError: if the model gives a loss that is not finite.
    """
    job = ScoreJob(store.storage.settings, str(trained), str(dataset), side, threads)
    with TextDataset.open(store, dataset) as opened:
        windows = opened.windows_per_group(side)
    chunks = list(_chunks(windows))
    results: list[dict[str, Any]] = []
    for start in range(0, len(chunks), CHUNKS_PER_WAVE):
        wave = chunks[start : start + CHUNKS_PER_WAVE]
        results += engine.map(functools.partial(_score_chunk, job), wave, stage=STAGE)
        done = sum(windows[: wave[-1][-1] + 1])
        progress(STAGE, {"window": done, "windows": sum(windows), "model": f"{trained.name}/{trained.version}"})
    ids = np.frombuffer(b"".join(result["ids"] for result in results), ID_DTYPE)
    return LanguageScores(ids, *(np.concatenate([np.array(result[name]) for result in results]) for name in _FIELDS))


def _chunks(windows: Sequence[int]) -> Iterator[list[int]]:
    """Row groups together, so many that a worker's time is well spent; they do not depend on the number of workers."""
    held: list[int] = []
    for group, count in enumerate(windows):
        held.append(group)
        if sum(windows[held[0] : group + 1]) >= WINDOWS_PER_CHUNK or count >= WINDOWS_PER_CHUNK:
            yield held
            held = []
    if held:
        yield held


def _score_chunk(job: ScoreJob, indices: Sequence[int]) -> dict[str, Any]:
    store = ArtifactStore.open(job.storage)
    scorer = _scorer_of(job, store)
    with TextDataset.open(store, ArtifactRef.parse(job.dataset)) as dataset:
        table = pa.concat_tables(dataset.read_row_groups(job.side, indices, _COLUMNS))
    with threads_set(job.threads):
        return scorer.score(table)


def _scorer_of(job: ScoreJob, store: ArtifactStore) -> LanguageScorer:
    """The model, loaded once in a process for all its chunks."""
    key = (job.storage, job.trained, job.dataset)
    trained, dataset = ArtifactRef.parse(job.trained), ArtifactRef.parse(job.dataset)
    return PROCESS.get_or_make("language scorer", key, lambda: LanguageScorer.load(store, trained, dataset=dataset))


@dataclass(frozen=True)
class LanguageScorer:
    """A language model in evaluation mode.

    Attributes:
        model: forward(input_ids, attention_mask) -> logits (B, T, V).
        tokenizer: the model's own.
        same_tokens: whether the dataset's tokens are the model's.
        window: tokens that the model takes at once.
        pad_id: token of the padding.
    """

    model: TrainableModel
    tokenizer: TextTokenizer
    same_tokens: bool
    window: int
    pad_id: int

    @classmethod
    def load(cls, store: ArtifactStore, trained: ArtifactRef, *, dataset: ArtifactRef) -> LanguageScorer:
        """The model of a ``trained`` artifact.

        Raises:
            IntegrityError: if a file is damaged.
        """
        opened = ModelFolder(store.local(trained))
        spec = opened.spec
        files = {path.name: path.read_bytes() for path in opened.tokenizer_folder.iterdir() if path.is_file()}
        same_tokens = _same_tokens(store, trained, dataset)
        return cls(opened.build().eval(), TextTokenizer.of(files), same_tokens, spec.max_length, spec.pad_id)

    def score(self, table: pa.Table) -> dict[str, Any]:
        """Sums of each block of a table (columns id, input_ids, bytes, unknown_bytes, text), as plain values."""
        size = table.column("bytes").to_numpy().astype(np.float64)
        unknown = table.column("unknown_bytes").to_numpy().astype(np.float64)
        if not self.same_tokens:
            encoded = self.tokenizer.encode(self.tokenizer.load(), table.column("text").to_pylist())
            unknown = encoded.unknown_bytes.astype(np.float64)
            offsets = np.concatenate([[0], np.cumsum(encoded.lengths)]).astype(np.int32)
            tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(encoded.ids))
            table = pa.table({"id": table.column("id"), "input_ids": tokens})
        nats, counts, correct = self._sums(table)
        bits = nats / math.log(2) + BITS_OF_UNKNOWN_BYTE * unknown
        if self.tokenizer.begin_id is None:
            bits = bits + math.log2(self.tokenizer.vocabulary)
        if not np.isfinite(bits).all():
            row = int(np.flatnonzero(~np.isfinite(bits))[0])
            raise NonFiniteError(
                f"Evaluation of block {table.column('id')[row].as_py().hex()}: expected a finite loss, got {nats[row]}. "
                "Train again with a lower train.learning_rate"
            )
        ids = b"".join(table.column("id").to_pylist())
        return {
            "ids": ids,
            "nats": nats.tolist(),
            "bits": bits.tolist(),
            "tokens": counts.tolist(),
            "correct": correct.tolist(),
            "size": size.tolist(),
        }

    def _sums(self, table: pa.Table) -> tuple[npt.NDArray[np.float64], ...]:
        """Negative log-likelihood, predicted tokens and right ones of each block."""
        from ts4s_core.training.batches.text_windows import window_block

        lengths = np.diff(table.column("input_ids").combine_chunks().offsets.to_numpy())
        stride = max(1, self.window // 2)
        starts, counts = starts_of(lengths, window=self.window, stride=stride)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(starts))
        block = window_block(table.select(["id", "input_ids"]).append_column("starts", listed), window=self.window)
        # What the window before has predicted is context here.
        skipped = np.where(starts > 0, self.window - stride, 0)
        sums = np.zeros((3, len(lengths)))
        most = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // self.model.spec.vocab_size)
        for rows in length_batches(block.lengths, tokens=most, rows=None):
            found = self._forward(block, rows, skipped[rows])
            for kind in range(3):
                np.add.at(sums[kind], block.blocks[rows], found[kind])
        return sums[0], sums[1], sums[2]

    def _forward(
        self, block: WindowBlock, rows: npt.NDArray[np.int64], skipped: npt.NDArray[np.integer]
    ) -> tuple[npt.NDArray[np.float64], ...]:
        import torch

        batch = block.batch(rows, pad_id=self.pad_id)
        with torch.inference_mode():
            logits = self.model(batch.input_ids, batch.attention_mask)
            targets = batch.labels
            counted = (targets >= 0) & (
                torch.arange(targets.shape[1])[None, :] >= torch.from_numpy(skipped.astype(np.int64))[:, None]
            )
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
            )
            losses = losses.view_as(targets).double() * counted
            right = (logits.argmax(-1) == targets) & counted
        return losses.sum(1).numpy(), counted.sum(1).double().numpy(), right.sum(1).double().numpy()


def _same_tokens(store: ArtifactStore, trained: ArtifactRef, dataset: ArtifactRef) -> bool:
    ours, theirs = _tokenizer_files(store, trained), _tokenizer_files(store, dataset)
    return ours == theirs


def _tokenizer_files(store: ArtifactStore, ref: ArtifactRef) -> Mapping[str, str]:
    return {entry.path: entry.sha256 for entry in store.manifest(ref).files if entry.path.startswith(TOKENIZER)}


def unigram_bits_per_byte(store: ArtifactStore, engine: DataEngine, *, dataset: ArtifactRef) -> float:
    """Bits per byte of the test side if each token cost what its frequency in the training side says, whatever stands before."""
    with TextDataset.open(store, dataset) as opened:
        begin, vocabulary = opened.begin_id, opened.vocabulary
        size = opened.text_bytes["test"]
        groups = {side: range(len(opened.rows_per_group(side))) for side in ("train", "test")}
    counts = {}
    for side, indices in groups.items():
        chunks = [list(indices[start : start + 64]) for start in range(0, len(indices), 64)]
        count = functools.partial(_count_tokens, ScoreJob(store.storage.settings, "", str(dataset), side, 1), vocabulary)
        counts[side] = np.sum([np.frombuffer(found, np.int64) for found in engine.map(count, chunks, stage=STAGE)], axis=0)
        if begin is not None:
            counts[side][begin] = 0
    smoothed = counts["train"] + 0.5
    bits = -np.log2(smoothed / smoothed.sum())
    return float((counts["test"] * bits).sum() / max(size, 1))


def _count_tokens(job: ScoreJob, vocabulary: int, indices: Sequence[int]) -> bytes:
    total = np.zeros(vocabulary, np.int64)
    with TextDataset.open(ArtifactStore.open(job.storage), ArtifactRef.parse(job.dataset)) as dataset:
        for table in dataset.read_row_groups(job.side, indices, ["input_ids"]):
            total += np.bincount(table.column("input_ids").combine_chunks().flatten().to_numpy(), minlength=vocabulary)
    return total.tobytes()
