"""Scoring of text by a model whose every probability is known: logits hang on the last token alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ts4s_core.data.corpus.tokenizer_training import train_tokenizer
from ts4s_core.data.corpus.tokens import TextTokenizer
from ts4s_core.errors import NonFiniteError
from ts4s_core.evaluation.gate.decision import Evidence, decide
from ts4s_core.evaluation.gate.language_evidence import paired_bits_gain
from ts4s_core.evaluation.scoring.language_scores import LanguageScorer, LanguageScores

VOCABULARY = 40
TEXTS = ["red cat runs, the dog sleeps", "blue house", "x", "the red dog eats the blue cat " * 5]


class Bigram(torch.nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.spec = SimpleNamespace(vocab_size=VOCABULARY)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table[input_ids]


def tokenizer(kind: str = "word-level") -> TextTokenizer:
    return TextTokenizer.of(train_tokenizer(TEXTS, kind=kind, vocabulary_size=VOCABULARY))


def table_of(rows: list[list[int]], texts: list[str]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([bytes([row]) * 16 for row in range(len(rows))], pa.binary(16)),
            "input_ids": pa.array(rows, pa.list_(pa.int32())),
            "bytes": pa.array([len(text.encode()) for text in texts], pa.int32()),
            "unknown_bytes": pa.array([0] * len(rows), pa.int32()),
            "text": pa.array(texts),
        }
    )


def scored(scorer: LanguageScorer, table: pa.Table) -> LanguageScores:
    found = scorer.score(table)
    fields = {name: np.array(found[name]) for name in ("nats", "bits", "tokens", "correct", "size")}
    return LanguageScores(np.frombuffer(found["ids"], "S16"), **fields)


@pytest.mark.parametrize("window", [2, 3, 7, 64])
def test_every_token_is_predicted_once_whatever_the_window(window: int) -> None:
    words, model = tokenizer(), Bigram()
    loaded = words.load()
    rows = [words.encode(loaded, [text]).ids.tolist() for text in TEXTS]
    scores = scored(LanguageScorer(model, words, True, window, 0), table_of(rows, TEXTS))  # type: ignore[arg-type]
    log = torch.log_softmax(model.table.double(), -1).numpy()
    for row, ids in enumerate(rows):
        pairs = list(itertools.pairwise(ids))
        assert scores.tokens[row] == len(pairs)
        assert scores.nats[row] == pytest.approx(-sum(log[a, b] for a, b in pairs), rel=1e-5)
        assert scores.correct[row] == sum(int(log[a].argmax()) == b for a, b in pairs)
    metrics = scores.metrics()
    assert metrics["loss"] == pytest.approx(scores.nats.sum() / scores.tokens.sum())
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    size = sum(len(text.encode()) for text in TEXTS)
    assert metrics["bits_per_byte"] == pytest.approx(scores.nats.sum() / math.log(2) / size)


def test_text_of_another_tokenizer_is_tokenized_anew_and_what_is_unknown_is_charged() -> None:
    words, model = tokenizer(), Bigram()
    texts = ["red cat", "red zebra"]
    scores = scored(LanguageScorer(model, words, False, 8, 0), table_of([[1], [1]], texts))  # type: ignore[arg-type]
    assert scores.tokens.tolist() == [2, 2]
    extra = scores.bits - scores.nats / math.log(2)
    assert extra.tolist() == pytest.approx(
        [8.0 * (words.encode(words.load(), ["red cat"]).unknown_bytes[0]), 8.0 * len(" zebra")]
    )


def test_a_first_token_behind_nothing_costs_the_vocabulary() -> None:
    words = tokenizer()
    without = replace(words, begin_id=None)
    scores = scored(LanguageScorer(Bigram(), without, True, 8, 0), table_of([[2, 3]], ["red"]))  # type: ignore[arg-type]
    assert scores.bits[0] == pytest.approx(scores.nats[0] / math.log(2) + math.log2(words.vocabulary))


def test_no_number_is_an_error_that_names_the_block() -> None:
    model = Bigram()
    model.table[2] = float("nan")
    with pytest.raises(NonFiniteError, match="00000000000000000000000000000000: expected a finite loss"):
        LanguageScorer(model, tokenizer(), True, 8, 0).score(table_of([[2, 3]], ["red"]))  # type: ignore[arg-type]


def scores_of(bits: Any) -> LanguageScores:
    bits = np.asarray(bits, np.float64)
    ids = np.array([f"{row:016}".encode() for row in range(len(bits))], "S16")
    return LanguageScores(ids, bits, bits, np.ones(len(bits)), np.zeros(len(bits)), np.full(len(bits), 100.0))


def test_gain_is_bits_saved_a_byte_with_an_interval_of_blocks() -> None:
    random = np.random.default_rng(3)
    theirs = 200 + 20 * random.standard_normal(400)
    gain = paired_bits_gain(scores_of(theirs - 10 + random.standard_normal(400)), scores_of(theirs))
    assert gain.gain == pytest.approx(0.1, abs=0.002)
    # The blocks' own spread (0.2 bits a byte) is not in the interval, because the same blocks are compared.
    assert 0.09 < gain.low < gain.gain < gain.high < 0.11
    evidence = Evidence(metric="bits_per_byte", candidate=gain.candidate, baseline=4.0, gain=gain)
    decision = decide(evidence, champion="trained/lm/20261121T041500.123456Z-1a2b3c4d", min_improvement=0.05)
    assert decision.promote
    assert "in bits per byte over" in decision.why
    assert not decide(evidence, champion="trained/lm/20261121T041500.123456Z-1a2b3c4d", min_improvement=0.2).promote


def test_first_version_must_beat_token_frequencies() -> None:
    decision = decide(Evidence(metric="bits_per_byte", candidate=2.0, baseline=4.0), champion=None, min_improvement=0.0)
    assert decision.promote
    assert decision.why == "first version: bits per byte 2.0000 beats how often each token occurs (4.0000)"
    assert not decide(Evidence(metric="bits_per_byte", candidate=4.1, baseline=4.0), champion=None, min_improvement=0.0).promote
