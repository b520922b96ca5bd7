"""Trained artifacts of tiny random models, with the dataset that they were made for: fixtures for the tests of what uses them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import VOCABULARY, tiny_config, word_tokenizer

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import Settings

LABELS = ("ham", "spam", "tofu")
_PADDED = {"pad_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": tiny_config("bert", **_PADDED),
    "roberta": tiny_config("roberta", **_PADDED),
    "electra": tiny_config("electra", **_PADDED, embedding_size=32),
    "distilbert": tiny_config("distilbert", **_PADDED),
    "gpt2": tiny_config("gpt2"),
    "llama": tiny_config("llama", **_PADDED),
}
CAUSAL = ("gpt2", "llama")


def sentences(count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Labelled sentences of 2 to 20 words ``w5 ... w199``."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = draw.integers(5, VOCABULARY, size=int(draw.integers(2, 21)))
        rows.append((LABELS[number % len(LABELS)], " ".join(f"w{word}" for word in words)))
    return rows


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of whole words with RoBERTa's special tokens."""
    from tokenizers import processors

    tokenizer = word_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder


def make_settings(folder: Path, family: str = "roberta", *, name: str = "", **model: Any) -> Settings:
    """Settings of a tiny model in ``folder``: store, configuration, tokenizer, data."""
    config = folder / f"{family}.json"
    config.write_text(json.dumps(CONFIGS[family]))
    data = folder / "rows.tsv"
    if not data.exists():
        data.write_text("".join(f"{label}\t{text}\n" for label, text in sentences(240)))
    task = "language-model" if family in CAUSAL else "classification"
    given = {
        "source": f"config:{config}",
        "tokenizer": str(write_tokenizer(folder / "tokenizer")),
        "max_length": 24,
        "task": task,
    }
    return Settings.model_validate(
        {
            "name": name or family,
            "storage": {"uri": str(folder / "store"), "cache_dir": str(folder / "cache")},
            "spark": {"master": "none"},
            "model": {**given, **model},
            "data": {"source": str(data)},
        }
    )


def imported(settings: Settings, *, labels: Sequence[str] = LABELS) -> ArtifactRef:
    """The ``model`` artifact that training would start from."""
    from ts4s_core.models.import_step import import_model
    from ts4s_core.onnx.exporting.step import export_model

    store = ArtifactStore.open(settings.storage)
    names = [] if settings.model.task == "language-model" else list(labels)
    base = export_model(settings, store).ref
    return import_model(settings, store, onnx_ref=base, classes=len(names), label_names=names or None).ref


def seal_trained(
    settings: Settings,
    *,
    labels: Sequence[str] = LABELS,
    dataset: ArtifactRef | None = None,
    std: float = 0.2,
    seed: int = 0,
    model: ArtifactRef | None = None,
    tokenizer: Mapping[str, bytes] | None = None,
) -> ArtifactRef:
    """A ``trained`` artifact of a tiny model whose weights are all drawn anew (normal, ``std``), as if trained.

    Args:
        settings: of the model, and its name.
        labels: its labels.
        dataset: that it was trained on.
        std: of the weights.
        seed: of the weights.
        model: that it started from; None: it is made of the settings.
        tokenizer: in place of that one's, by name.
    """
    from ts4s_core.models.weights import read_weights, save_weights, weights_sha256

    store = ArtifactStore.open(settings.storage)
    model = model or imported(settings, labels=labels)
    folder = store.local(model)
    draw = np.random.default_rng(seed)
    tensors = {
        name: draw.normal(0, std, array.shape).astype(np.float32)
        for name, array in sorted(read_weights(folder / "model.safetensors").items())
    }
    upstream = {"model": model} if dataset is None else {"model": model, "dataset": dataset}
    with store.begin("trained", settings.name, "ab" * 32, settings={}, upstream=upstream) as writer:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if path.name not in ("manifest.json", "model.safetensors") and not (tokenizer and name.startswith("tokenizer/")):
                writer.add_file(path, name)
        for name, data in (tokenizer or {}).items():
            writer.add_bytes(f"tokenizer/{name}", data)
        with tempfile.TemporaryDirectory() as temporary:
            save_weights(Path(temporary) / "w", tensors)
            writer.add_file(Path(temporary) / "w", "model.safetensors")
        writer.facts["weights_sha256"] = weights_sha256(tensors)
        writer.seal()
    return writer.ref


def prepare(settings: Settings) -> ArtifactRef:
    """The dataset artifact of the settings' rows."""
    from ts4s_core.data.data_engine import LocalEngine
    from ts4s_core.data.prepare import prepare_dataset
    from ts4s_core.data.scan import scan

    engine, store = LocalEngine(), ArtifactStore.open(settings.storage)
    folder = Path(str(settings.model.tokenizer))
    return prepare_dataset(settings, store, engine, scan=scan(settings, engine), tokenizer_folder=folder).ref


class TinyModels:
    """Trained tiny models in one folder, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, ArtifactRef] = {}
        self._dataset: ArtifactRef | None = None

    @property
    def store(self) -> ArtifactStore:
        """The store that holds them."""
        return ArtifactStore.open(self.settings("roberta").storage)

    @property
    def dataset(self) -> ArtifactRef:
        """The dataset of the rows."""
        if self._dataset is None:
            self._dataset = prepare(self.settings("roberta", name="rows"))
        return self._dataset

    def settings(self, family: str, **model: Any) -> Settings:
        """As :func:`make_settings`."""
        return make_settings(self.folder, family, **model)

    def trained(
        self, family: str, *, with_dataset: bool = False, seed: int = 0, std: float = 0.2, name: str = "", **model: Any
    ) -> ArtifactRef:
        """As :func:`seal_trained`."""
        key = repr((family, with_dataset, seed, std, name, sorted(model.items())))
        if key not in self._made:
            dataset = self.dataset if with_dataset else None
            self._made[key] = seal_trained(self.settings(family, name=name, **model), dataset=dataset, std=std, seed=seed)
        return self._made[key]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Tiny trained models on demand."""
    return TinyModels(tmp_path_factory.mktemp("tiny-models"))


@pytest.fixture(scope="session")
def labelled_sentences() -> Callable[..., list[tuple[str, str]]]:
    """:func:`sentences`."""
    return sentences
