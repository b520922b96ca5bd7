"""The evaluation step of language models: score, measure, ask the gate, write the report."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.data_engine import DataEngine
from ts4s_core.errors import DataError
from ts4s_core.evaluation.facts import ReportFacts
from ts4s_core.evaluation.figures.overlap import seen_in_training
from ts4s_core.evaluation.gate.language_evidence import language_gate
from ts4s_core.evaluation.report.language_report import render_language_report
from ts4s_core.evaluation.scoring.language_scores import LanguageScores, score_text, unigram_bits_per_byte
from ts4s_core.evaluation.scoring.next_tokens import next_tokens
from ts4s_core.evaluation.scoring.score_rows import STAGE
from ts4s_core.evaluation.steps.evaluation import Evaluation, add_page
from ts4s_core.language.word_vectors import write_word_vectors
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.shown_text import csv_bytes

#: Where the code of this step begins, for its key.
ENTRIES = (__name__,)


def evaluate_language(
    settings: Settings,
    store: ArtifactStore,
    engine: DataEngine,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    champion: ArtifactRef | None = None,
    prompts: Sequence[str] = (),
    step_seconds: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> StepResult:
    """Evaluate a trained language model on the test side of a dataset and let the gate compare it with the champion.

    Files: ``metrics.json``, ``blocks.csv`` (bits, tokens and bytes of each held-out block), ``next_tokens.json``,
    ``decision.json``, ``report.html``, and the word vectors (``word_vectors.parquet``, ``word_vectors.txt``,
    ``neighbours.json``). Facts: ``metrics`` (loss, perplexity, bits_per_byte, next_token_accuracy), ``baseline``
    (bits_per_byte of how often each token occurs), ``decision``, ``rows`` (blocks).

    Args:
        settings: groups ``evaluate`` and ``train`` (threads), and ``data.show_text``.
        store: holds everything.
        engine: scores in parallel.
        trained: the version.
        dataset: the dataset it was trained on.
        champion: the version that the registry's alias names now, if any; see
            :func:`ts4s_core.evaluation.steps.classifier.evaluate`.
        prompts: contexts whose likeliest next tokens the report shows.
        step_seconds: how long the earlier steps of the flow took; for the report alone.
        progress: called with the windows done.

    Raises:
        DataError: if the whole test side stands in the training side.
        IntegrityError: if a file is damaged.
        NonFiniteError: if the model gives a loss that is not finite.
    """
    run = Evaluation(settings, store, engine, trained, dataset, champion, step_seconds or {}, progress)
    evaluating = settings.evaluate
    relevant = {
        "evaluate": {"min_improvement": evaluating.min_improvement, "top_k": evaluating.top_k},
        "show_text": settings.data.show_text,
        "prompts": list(prompts),
        "words": words_of(settings),
    }
    return run.run(relevant, functools.partial(_build, run, prompts), entries=ENTRIES)


def words_of(settings: Settings) -> list[str]:
    """The words of ``evaluate.words``."""
    return [word.strip() for word in settings.evaluate.words.split(",") if word.strip()]


def _build(run: Evaluation, prompts: Sequence[str], writer: ArtifactWriter) -> None:
    """Write every file of the report."""
    settings, store, engine, trained, dataset = run.settings, run.store, run.engine, run.trained, run.dataset
    scores, left_out = _held_out_scores(run)
    unigram = unigram_bits_per_byte(store, engine, dataset=dataset)
    decision = run.final_decision(
        language_gate(
            settings,
            store,
            engine,
            trained=trained,
            dataset=dataset,
            champion=run.compared_with,
            scores=scores,
            unigram=unigram,
            left_out=left_out,
            progress=run.progress,
        )
    )
    contexts = next_tokens(
        store,
        trained=trained,
        dataset=dataset,
        prompts=prompts,
        top_k=settings.evaluate.top_k,
        show_text=settings.data.show_text,
        threads=settings.train.threads_per_worker,
    )
    metrics = {**scores.metrics(), **_extent(scores), "baseline": {"bits_per_byte": unigram}}
    writer.add_json("metrics.json", metrics)
    writer.add_json("decision.json", decision.to_json())
    writer.add_json("next_tokens.json", [context.to_json() for context in contexts])
    writer.add_bytes("blocks.csv", _blocks_csv(scores))
    run.progress(STAGE, {"doing": "write the report"})
    near = write_word_vectors(writer, store.local(trained), words=words_of(settings))
    data = run.report_data(metrics=metrics, decision=decision, card=_card(run))
    add_page(writer, render_language_report(data, contexts, near))
    facts = ReportFacts(
        metrics=scores.metrics(),
        baseline={"answer": ["how often each token occurs"], "bits_per_byte": unigram},
        rows=len(scores.ids),
        decision=decision.to_json(),
    )
    writer.facts = facts.to_json()


def _held_out_scores(run: Evaluation) -> tuple[LanguageScores, int]:
    """Scores of the test side's blocks that the training side does not hold, and how many it does."""
    store, dataset, threads = run.store, run.dataset, run.settings.train.threads_per_worker
    everything = score_text(store, run.engine, trained=run.trained, dataset=dataset, threads=threads, progress=run.progress)
    seen = seen_in_training(store, run.engine, tested=dataset, ids=everything.ids, trained_on=[dataset])
    if seen.all():
        raise DataError(
            f"All {len(seen)} blocks of the test side of {dataset} stand in its training side too: expected text that "
            "was held out. Leave repeated text out, or use data.split_by block"
        )
    return everything.only(~seen), int(seen.sum())


def _card(run: Evaluation) -> Mapping[str, Any]:
    with TextDataset.open(run.store, run.dataset) as opened:
        return opened.card()


def _extent(scores: LanguageScores) -> dict[str, int]:
    return {"blocks": len(scores.ids), "tokens": int(scores.tokens.sum()), "bytes": int(scores.size.sum())}


def _blocks_csv(scores: LanguageScores) -> bytes:
    rows = zip(scores.ids.tolist(), scores.bits, scores.tokens, scores.correct, scores.size, strict=True)
    return csv_bytes(
        ["id", "bits", "tokens", "correct", "bytes"],
        (
            [bytes(block).ljust(16, b"\0").hex(), f"{bits:.6f}", int(tokens), int(correct), int(size)]
            for block, bits, tokens, correct, size in rows
        ),
    )
