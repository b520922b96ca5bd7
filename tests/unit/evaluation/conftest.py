"""A store with prepared datasets and bag-of-words models: small, but written and read by the real code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from model_specs import small_spec
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer, models, pre_tokenizers

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import scan
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.settings import Settings

WORDS = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(40))]


class BagOfWords(torch.nn.Module):
    """Logits are the mean of one row of weights a token; padding must not count."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert not self.training
        mask = attention_mask.unsqueeze(-1).float()
        return (self.weights[input_ids] * mask).sum(1) / mask.sum(1)


@pytest.fixture(autouse=True)
def bag_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelFolder, "build", lambda opened: BagOfWords(load_file(opened.weights_file)["weights"]))


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    return folder


def lines(count: int, *, seed: int = 0, labels: Sequence[str] = ("a", "b", "c"), words: int = 8) -> list[str]:
    """``label<TAB>text``: two words in three are the label's own."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(random.integers(len(labels)))
        own = random.random(max(2, random.poisson(words))) < 0.66
        tokens = np.where(own, 10 * label + random.integers(0, 10, len(own)), random.integers(0, 40, len(own)))
        rows.append(f"{labels[label]}\t{' '.join(f'w{token}' for token in tokens)} x{random.integers(10**9)}")
    return rows


Prepare = Callable[..., ArtifactRef]


@pytest.fixture
def prepare(store: ArtifactStore, tmp_path: Path) -> Prepare:
    def make(
        rows: Sequence[str], *, name: str = "demo", words: Sequence[str] = WORDS, task: str = "classification", **data: object
    ):
        source = tmp_path / f"{name}.tsv"
        source.write_text("\n".join(rows) + "\n", encoding="utf-8")
        settings = Settings(
            name=name,
            data={"source": str(source), "format": "tsv", "test_fraction": 0.3, **data},
            model={"max_length": 16, "task": task},
            spark={"master": "none"},
        )
        engine = LocalEngine()
        folder = write_tokenizer(tmp_path / f"tokenizer-{len(words)}", words)
        return prepare_dataset(settings, store, engine, scan=scan(settings, engine), tokenizer_folder=folder).ref

    return make


def weights(skill: float, *, seed: int = 0, words: Sequence[str] = WORDS, classes: int = 3) -> np.ndarray:
    """Weights that know the labels' own words as well as ``skill`` says."""
    random = np.random.default_rng(seed)
    table = random.normal(0, 1, (len(words), classes))
    for place, word in enumerate(words):
        if word.startswith("w") and int(word[1:]) < 10 * classes:
            table[place, int(word[1:]) // 10] += skill
    return table.astype(np.float32)


Train = Callable[..., ArtifactRef]


@pytest.fixture
def train(store: ArtifactStore, tmp_path: Path) -> Train:
    def make(
        dataset: ArtifactRef,
        table: np.ndarray,
        *,
        name: str = "demo",
        labels: Sequence[str] = ("a", "b", "c"),
        words: Sequence[str] = WORDS,
        upstream: dict[str, ArtifactRef] | None = None,
    ) -> ArtifactRef:
        with store.begin("trained", name, "ab" * 32, settings={}, upstream={"dataset": dataset, **(upstream or {})}) as writer:
            spec = small_spec(labels=tuple(labels), hidden_size=len(labels), max_length=16, vocab_size=len(words))
            writer.add_json("model.json", spec.to_json())
            writer.add_bytes("model.safetensors", save({"weights": table}))
            writer.add_folder(write_tokenizer(tmp_path / f"tokenizer-{len(words)}", words), "tokenizer")
            writer.add_bytes("metrics.csv", b"step,loss,learning_rate,validation_loss\n1,1.5,0.001,\n2,1.2,0.0005,1.3\n")
            writer.facts |= {"weights_sha256": "ab" * 32, "steps": 2, "tokens_per_s": 812.5, "padding_fraction": 0.03}
            return writer.seal().ref

    return make


@pytest.fixture
def settings(store: ArtifactStore) -> Settings:
    return Settings(name="demo", spark={"master": "none"}, storage={"uri": store.storage.settings.uri})


# Helpers reach the tests as fixtures: tests/ is no package to import from.
@pytest.fixture(name="lines")
def lines_helper() -> Callable[..., list[str]]:
    return lines


@pytest.fixture(name="weights")
def weights_helper() -> Callable[..., np.ndarray]:
    return weights


@pytest.fixture
def other_words() -> list[str]:
    """The same words under other numbers, as another tokenizer has them."""
    return ["[PAD]", "[UNK]", *reversed(WORDS[2:])]
