"""Small language models, made as the flow makes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.language.decoder import export_decoder, import_decoder
from ts4s_core.language.defaults import with_defaults
from ts4s_core.settings import Settings, StorageSettings

sys.path.insert(0, str(Path(__file__).parent))

from small_language_models import MODELS, WORDS, write_words

Make = Callable[..., StepResult]


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("tokenizer") / "tokenizer", WORDS)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    home = tmp_path_factory.mktemp("language")
    return ArtifactStore.open(StorageSettings(uri=str(home / "store"), cache_dir=str(home / "cache")))


@pytest.fixture(scope="session")
def settings_of(store: ArtifactStore) -> Callable[..., Settings]:
    def made(**groups: Any) -> Settings:
        groups.setdefault("name", "lm")
        return with_defaults(Settings(**{"storage": store.storage.settings, "spark": {"master": "none"}, **groups}))

    return made


@pytest.fixture(scope="session")
def make(store: ArtifactStore, words: Path, settings_of: Callable[..., Settings]) -> Make:
    """A model artifact by the name of its kind, or by its settings."""

    def made(kind: str = "gpt2", *, window: int = 16, tokenizer: Path = words, **model: Any) -> StepResult:
        settings = settings_of(name=kind, model={**MODELS[kind], **model}, data={"window": window})
        exported = export_decoder(settings, store, tokenizer=tokenizer)
        ref = None if exported is None else exported.ref
        return import_decoder(settings, store, tokenizer=tokenizer, exported=ref)

    return made
