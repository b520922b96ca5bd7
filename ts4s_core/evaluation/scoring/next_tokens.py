"""What a language model holds likely next, for chosen contexts: the user's prompts, and beginnings of held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.evaluation.scoring.language_scores import LanguageScorer
from ts4s_core.evaluation.scoring.score_rows import threads_set

HELD_OUT_CONTEXTS = 8
CONTEXT_TOKENS = 32


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens of a context.

    Attributes:
        context: the text before.
        actual: what came next in the held-out text; None for a prompt.
        candidates: likeliest first.
    """

    context: str
    actual: str | None
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def next_tokens(
    store: ArtifactStore,
    *,
    trained: ArtifactRef,
    dataset: ArtifactRef,
    prompts: Sequence[str],
    top_k: int,
    show_text: bool,
    threads: int = 1,
) -> list[NextTokens]:
    """The ``top_k`` next tokens of prompts and, where text may be shown, of some held-out text."""
    scorer = LanguageScorer.load(store, trained, dataset=dataset)
    tokenizer = scorer.tokenizer.load()
    contexts: list[tuple[list[int], int | None]] = []
    for prompt in prompts:
        encoded = scorer.tokenizer.encode(tokenizer, [prompt]).ids.tolist()
        if encoded:
            contexts.append((encoded[-scorer.window :], None))
    if show_text and scorer.same_tokens:
        contexts += _held_out(store, dataset, most=min(CONTEXT_TOKENS, scorer.window))
    with threads_set(threads):
        return [_answer(scorer, tokenizer, ids, actual, top_k=top_k) for ids, actual in contexts]


def _held_out(store: ArtifactStore, dataset: ArtifactRef, *, most: int) -> Iterator[tuple[list[int], int]]:
    """Beginnings of the first blocks of the test side, which are in the order of a hash: a random choice, always the same."""
    with TextDataset.open(store, dataset) as opened:
        left = HELD_OUT_CONTEXTS
        for table in opened.read("test", ["input_ids"]):
            for ids in table.column("input_ids").to_pylist():
                if len(ids) > 2 and left:
                    size = min(most, len(ids) - 1)
                    yield ids[:size], ids[size]
                    left -= 1
            if not left:
                return


def _answer(scorer: LanguageScorer, tokenizer: Any, ids: list[int], actual: int | None, *, top_k: int) -> NextTokens:
    import torch

    with torch.inference_mode():
        inputs = torch.tensor([ids])
        logits = scorer.model(inputs, torch.ones_like(inputs))[0, -1].double()
    probabilities = torch.softmax(logits, -1).numpy()
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return NextTokens(
        context=tokenizer.decode(ids),
        actual=None if actual is None else tokenizer.decode([actual], skip_special_tokens=False),
        candidates=tuple(
            Candidate(tokenizer.decode([int(token)], skip_special_tokens=False), float(probabilities[token])) for token in best
        ),
    )
