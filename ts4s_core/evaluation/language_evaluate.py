"""The evaluation step of language models: score, measure, ask the gate, write the report."""

from __future__ import annotations

import csv
import datetime
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ts4s_core.artifacts.keys import step_key
from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.steps import StepResult, run_step
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.data.engine import DataEngine
from ts4s_core.data.text_dataset import TextDataset
from ts4s_core.errors import DataError
from ts4s_core.evaluation.evaluate import ITSELF, KIND, content_of, curves_of, report_of
from ts4s_core.evaluation.gate import Decision
from ts4s_core.evaluation.language_contexts import next_tokens
from ts4s_core.evaluation.language_gate import language_gate
from ts4s_core.evaluation.language_report import render_language_report
from ts4s_core.evaluation.language_scores import LanguageScores, score_text, unigram_bits_per_byte
from ts4s_core.evaluation.lineage import ancestors
from ts4s_core.evaluation.overlap import seen_in_training
from ts4s_core.evaluation.predict import STAGE
from ts4s_core.evaluation.report import ReportData
from ts4s_core.language.word_vectors import write_word_vectors
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings


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
        champion: the version that the registry's alias names now, if any; see :func:`ts4s_core.evaluation.evaluate.evaluate`.
        prompts: contexts whose likeliest next tokens the report shows.
        step_seconds: how long the earlier steps of the flow took; for the report alone.
        progress: told of windows done.

    Raises:
        DataError: if the whole test side stands in the training side.
        IntegrityError: if a file is damaged.
        NonFiniteError: if the model gives a loss that is no number.
    """
    started = time.monotonic()
    evaluating = settings.evaluate
    wanted = {
        "evaluate": {"min_improvement": evaluating.min_improvement, "top_k": evaluating.top_k},
        "show_text": settings.data.show_text,
        "prompts": list(prompts),
        "words": words_of(settings),
    }
    itself = champion == trained
    if itself and settings.reuse:
        found = report_of(store, settings.name, trained=trained, dataset=dataset, wanted=wanted)
        if found is not None:
            return StepResult(found, True, time.monotonic() - started, store.manifest(found).facts)
    against = None if itself else champion
    run = _Run(settings, store, engine, trained, dataset, against, itself, prompts, step_seconds or {}, progress, started)
    inputs = {
        "trained": content_of(store, trained),
        "dataset": content_of(store, dataset),
        "champion": ITSELF if itself else content_of(store, champion),
    }
    return run_step(
        store,
        kind=KIND,
        name=settings.name,
        key=step_key(KIND, inputs=inputs, settings=wanted),
        settings=wanted,
        upstream={"trained": trained, "dataset": dataset} | ({} if against is None else {"champion": against}),
        reuse=settings.reuse,
        build=run.build,
    )


def words_of(settings: Settings) -> list[str]:
    """The words of ``evaluate.words``."""
    return [word.strip() for word in settings.evaluate.words.split(",") if word.strip()]


@dataclass(frozen=True)
class _Run:
    """One evaluation that is being made; ``champion`` is None where the version is the champion itself."""

    settings: Settings
    store: ArtifactStore
    engine: DataEngine
    trained: ArtifactRef
    dataset: ArtifactRef
    champion: ArtifactRef | None
    itself: bool
    prompts: Sequence[str]
    step_seconds: Mapping[str, float]
    progress: Progress
    started: float

    def build(self, writer: ArtifactWriter) -> None:
        """Write every file of the report."""
        store, engine, threads = self.store, self.engine, self.settings.train.threads_per_worker
        everything = score_text(
            store, engine, trained=self.trained, dataset=self.dataset, threads=threads, progress=self.progress
        )
        seen = seen_in_training(store, engine, tested=self.dataset, ids=everything.ids, trained_on=[self.dataset])
        if seen.all():
            raise DataError(
                f"All {len(seen)} blocks of the test side of {self.dataset} stand in its training side too: expected text that "
                "was held out. Leave repeated text out, or use data.split_by block"
            )
        scores = everything.only(~seen)
        unigram = unigram_bits_per_byte(store, engine, dataset=self.dataset)
        decision = self._decision(scores, unigram, left_out=int(seen.sum()))
        contexts = next_tokens(
            store,
            trained=self.trained,
            dataset=self.dataset,
            prompts=self.prompts,
            top_k=self.settings.evaluate.top_k,
            show_text=self.settings.data.show_text,
            threads=threads,
        )
        metrics = {**scores.metrics(), **_extent(scores), "baseline": {"bits_per_byte": unigram}}
        writer.add_json("metrics.json", metrics)
        writer.add_json("decision.json", decision.to_json())
        writer.add_json("next_tokens.json", [context.to_json() for context in contexts])
        writer.add_bytes("blocks.csv", _blocks_csv(scores))
        self.progress(STAGE, {"part": "report"})
        words = words_of(self.settings)
        near = write_word_vectors(writer, store.local(self.trained), words=words)
        page = render_language_report(self._report_data(metrics, decision), contexts, near)
        # The times in it do not make it another evaluation.
        writer.add_bytes("report.html", page.encode("utf-8", errors="replace"), identity=False)
        writer.facts |= {
            "metrics": scores.metrics(),
            "baseline": {"answer": ["how often each token occurs"], "bits_per_byte": unigram},
            "rows": len(scores.ids),
            "decision": decision.to_json(),
        }

    def _decision(self, scores: LanguageScores, unigram: float, *, left_out: int) -> Decision:
        decision = language_gate(
            self.settings,
            self.store,
            self.engine,
            trained=self.trained,
            dataset=self.dataset,
            champion=self.champion,
            scores=scores,
            unigram=unigram,
            left_out=left_out,
            progress=self.progress,
        )
        return Decision(False, "this version is the champion already", None, decision.figures) if self.itself else decision

    def _report_data(self, metrics: Mapping[str, Any], decision: Decision) -> ReportData:
        store = self.store
        with TextDataset.open(store, self.dataset) as opened:
            card = opened.card()
        return ReportData(
            name=self.settings.name,
            trained=str(self.trained),
            metrics=metrics,
            labels=(),
            decision=decision,
            lineage=[
                (ancestor.role, str(ancestor.ref), ancestor.manifest.created if ancestor.manifest else "no longer in the store")
                for ancestor in ancestors(store, self.trained)
            ],
            card=card,
            curves=curves_of(store, self.trained),
            training=store.manifest(self.trained).facts,
            step_seconds={**self.step_seconds, STAGE: time.monotonic() - self.started},
            settings=self.settings.plain(),
            created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        )


def _extent(scores: LanguageScores) -> dict[str, int]:
    return {"blocks": len(scores.ids), "tokens": int(scores.tokens.sum()), "bytes": int(scores.size.sum())}


def _blocks_csv(scores: LanguageScores) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "bits", "tokens", "correct", "bytes"])
    rows = zip(scores.ids.tolist(), scores.bits, scores.tokens, scores.correct, scores.size, strict=True)
    for block, bits, tokens, correct, size in rows:
        writer.writerow([bytes(block).ljust(16, b"\0").hex(), f"{bits:.6f}", int(tokens), int(correct), int(size)])
    return text.getvalue().encode()
