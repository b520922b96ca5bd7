"""The gate of language models: bits per byte on the same held-out blocks of text, whatever tokenizers the models have."""

from __future__ import annotations

import numpy as np

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import listed
from ts4s_core.evaluation.figures.lineage import training_datasets
from ts4s_core.evaluation.figures.overlap import seen_in_training
from ts4s_core.evaluation.figures.paired_gain import CONFIDENCE, RESAMPLES, SEED, Gain
from ts4s_core.evaluation.gate.decision import Decision, Evidence, decide
from ts4s_core.evaluation.scoring.language_scores import LanguageScores, score_text
from ts4s_core.progress import Progress
from ts4s_core.settings import Settings
from ts4s_core.task_kinds.metrics import BITS_PER_BYTE

_NUMBERS_AT_ONCE = 4_000_000


def language_gate(
    settings: Settings,
    store: ArtifactStore,
    engine: DataEngine,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    champion: ArtifactRef | None,
    scores: LanguageScores,
    unigram: float,
    left_out: int,
    progress: Progress,
) -> Decision:
    """Decide on a candidate.

    Args:
        settings: groups ``evaluate`` and ``train`` (threads).
        store: holds everything.
        engine: scores in parallel.
        trained: the candidate.
        dataset: what it was trained and is tested on.
        champion: the version it has to beat; None for a first version.
        scores: the candidate's, of blocks that its training side does not hold.
        unigram: bits per byte of how often each token occurs.
        left_out: blocks of the test side that the training side holds too.
        progress: called with the blocks done.
    """
    notes = [f"{left_out} block(s) of the test side left out that the training side holds too"] if left_out else []
    gain, removed = None, 0
    if champion is not None:
        older, gone = training_datasets(store, champion)
        if gone:
            notes.append(f"data of the champion are no longer in the store ({listed(gone)}): not left out")
        seen_by = {*older, *training_datasets(store, trained)[0]}
        seen = seen_in_training(store, engine, tested=dataset, ids=scores.ids, trained_on=sorted(seen_by))
        removed = int(seen.sum())
        if not seen.all():
            threads = settings.train.threads_per_worker
            theirs = score_text(store, engine, trained=champion, dataset=dataset, threads=threads, progress=progress)
            theirs = theirs.only(np.isin(theirs.ids, scores.ids))
            gain = paired_bits_gain(scores.only(~seen), theirs.only(~seen))
    evidence = Evidence(
        metric=BITS_PER_BYTE.name,
        candidate=scores.metrics()[BITS_PER_BYTE.name],
        baseline=unigram,
        gain=gain,
        removed=removed,
        notes=notes,
    )
    named = None if champion is None else str(champion)
    return decide(evidence, champion=named, min_improvement=settings.evaluate.min_improvement)


def paired_bits_gain(
    candidate: LanguageScores, champion: LanguageScores, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Gain:
    """How many bits per byte a candidate saves, with the 95 % interval of resampled blocks.

    Args:
        candidate: N >= 1 blocks.
        champion: the same blocks in the same order.
    """
    assert np.array_equal(candidate.ids, champion.ids), "paired scores are of the same blocks"
    first, second = (float(scores.bits.sum() / scores.size.sum()) for scores in (candidate, champion))
    random, count = np.random.default_rng(seed), len(candidate.ids)
    saved = champion.bits - candidate.bits
    gains: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    step = max(1, _NUMBERS_AT_ONCE // count)
    for start in range(0, resamples, step):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start))
        gains.append((drawn @ saved) / (drawn @ candidate.size))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(gains), [tail, 1 - tail])
    return Gain(first, second, second - first, float(low), float(high), count)
