"""Language models of every architecture through real worker processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "language"))

from sentences import optimum
from small_language_models import MODELS, write_words

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.corpus.dataset import TextDataset
from ts4s_core.data.corpus.prepare import prepare_text
from ts4s_core.data.corpus.scan import scan_text
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.facts import DatasetFacts
from ts4s_core.language.copy_guard import guard_of
from ts4s_core.language.decoder import export_decoder, import_decoder
from ts4s_core.language.defaults import with_defaults
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.weights import weights_sha256
from ts4s_core.settings import Settings
from ts4s_core.training.driver.local_launcher import LocalLauncher
from ts4s_core.training.driver.train_step import Factories, train

UNIT = str(Path(__file__).resolve().parents[1] / "unit" / "language")  # workers import sentences.py by name
DISTINCT = (
    "the cat sat on the mat",
    "a man starts with a long walk",
    "every dog has its day in the sun",
    "no man is a long way from the cat",
    "rain falls on the man and the dog",
)
SHARED = (
    "the cat sat on the mat",
    "the cat sat on the dog",
    "the dog sat in the sun",
    "a man starts with a walk",
    "a man starts with the dog",
)


def settings_of(store: ArtifactStore, name: str, **groups: Any) -> Settings:
    return with_defaults(Settings(name=name, storage=store.storage.settings, spark={"master": "none"}, **groups))


def model_of(settings: Settings, store: ArtifactStore, tokenizer: Path) -> ArtifactRef:
    exported = export_decoder(settings, store, tokenizer=tokenizer)
    return import_decoder(settings, store, tokenizer=tokenizer, exported=exported and exported.ref).ref


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("tied", (2, 1)), *(pytest.param(*case, marks=pytest.mark.long) for case in (("window", (1, 4)), ("recurrent", (2, 1))))],
)
def test_small_networks_have_one_hash_for_any_number_of_workers(store, tmp_path, kind, workers):
    random = np.random.default_rng(2)
    lines = [" ".join(f"w{word}" for word in random.integers(0, 40, 300)) for _ in range(60)]
    source = tmp_path / "text.txt"
    source.write_text("\n".join(lines), encoding="utf-8")
    facts = []
    for count in workers:
        settings = settings_of(
            store,
            f"run{count}",
            model={**MODELS[kind], "vocabulary_size": 300, "dropout": 0.2},
            data={"source": str(source), "format": "text", "window": 24, "block_bytes": 500},
            train={"workers": count, "batch_size": 10, "max_steps": 4, "timeout_s": 60, "early_stopping_patience": 0},
        )
        engine = LocalEngine()
        data = prepare_text(settings, store, engine, scan=scan_text(settings, engine)).ref
        with TextDataset.open(store, data) as opened:
            model = model_of(settings, store, opened.tokenizer_folder())
        result = train(settings, store, LocalLauncher(threads_per_worker=1), dataset=data, model=model)
        facts.append(result.facts)
        trained = ModelFolder(store.local(result.ref)).build()
        assert weights_sha256(trained.trained_tensors()) == result.facts["weights_sha256"]
        assert result.facts["weights_sha256"] != store.manifest(model).facts["weights_sha256"]
    guard = guard_of(store, result.ref, longest=3)
    assert guard is not None
    with TextDataset.open(store, data) as opened:
        ids = next(iter(opened.read("test", ["input_ids"]))).column("input_ids")[0].as_py()
    assert ids[8] in guard.refused(ids[:8])
    assert guard_of(store, result.ref, longest=0) is None
    assert len({found["weights_sha256"] for found in facts}) == 1
    assert [found["workers"] for found in facts] == list(workers)


def memorise(store: ArtifactStore, tmp_path: Path, sentences: Sequence[str], **model: Any) -> tuple[float, float]:
    """Accuracy and loss on the sentences after training on nothing else; the best that any model can have, beside it."""
    words = sorted({word for sentence in sentences for word in sentence.split()})
    tokenizer = write_words(tmp_path / "tokenizer", ["<unk>", "<|endoftext|>", *words])
    places = {word: place for place, word in enumerate(words, start=2)}
    ids = [[places[word] for word in sentence.split()] for sentence in sentences]
    settings = settings_of(
        store,
        "memory",
        model={**model, "dropout": 0.0},
        data={"window": 12},
        train={
            "batch_size": 5,
            "epochs": 150,
            "learning_rate": 5e-3,
            "weight_decay": 0.0,
            "workers": 1,
            "timeout_s": 60,
            "early_stopping_patience": 0,
        },
    )
    made = model_of(settings, store, tokenizer)
    launcher = LocalLauncher(threads_per_worker=1, python_path=[UNIT])
    factories = Factories(rows="sentences:rows", extra={"sentences": ids})
    with store.begin("dataset", "memory", "ab" * 32, settings={}, upstream={}) as writer:
        facts = DatasetFacts(labels=(), fingerprint="", task="language-model", max_length=12, pad_id=0)
        writer.facts = facts.to_json()
        writer.seal()
    result = train(settings, store, launcher, dataset=writer.ref, model=made, factories=factories)
    assert result.facts["seconds"] < 120
    trained = ModelFolder(store.local(result.ref)).build().eval()
    right, nats, tokens = 0, 0.0, 0
    with torch.no_grad():
        for sentence in ids:
            row = torch.tensor([sentence])
            logits = trained(row, torch.ones_like(row))[0, :-1]
            right += int((logits.argmax(-1) == row[0, 1:]).sum())
            nats += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
            tokens += len(sentence) - 1
    best_accuracy, least_loss = optimum(ids)
    assert right / tokens <= best_accuracy + 1e-9
    assert nats / tokens >= least_loss - 1e-6
    return right / tokens - best_accuracy, nats / tokens - least_loss


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("recurrent", marks=pytest.mark.long)])
def test_distinct_sentences_are_memorised(store, tmp_path, kind):
    ids = [sentence.split() for sentence in DISTINCT]
    assert optimum([[hash(word) for word in sentence] for sentence in ids]) == (1.0, 0.0)
    short_of_best, above_least = memorise(store, tmp_path, DISTINCT, **MODELS[kind])
    assert short_of_best > -0.01
    assert above_least < 0.05


def test_sentences_that_share_beginnings_are_learnt_as_well_as_can_be(store, tmp_path):
    short_of_best, above_least = memorise(store, tmp_path, SHARED, **MODELS["gpt2"])
    assert short_of_best == pytest.approx(0.0, abs=1e-9)
    assert above_least < 0.05


def test_the_optimum_by_hand():
    # After 1: 2, 2, 3; after 1 2: 4, 5. Right at best: 2 of 3, then 1 of 2.
    accuracy, loss = optimum([[1, 2, 4], [1, 2, 5], [1, 3]])
    assert accuracy == pytest.approx(3 / 5)
    assert loss == pytest.approx((2 * np.log(3 / 2) + np.log(3) + 2 * np.log(2)) / 5)
