"""A tiny tokenizer, and a way from rows to a dataset in one call."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from word_tokenizer import WORDS, make_tokenizer

from ts4s_core.artifacts.steps import StepResult
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.data_engine import DataEngine, LocalEngine
from ts4s_core.data.dataset import Dataset
from ts4s_core.data.prepare import prepare_dataset
from ts4s_core.data.scan import Scan, scan
from ts4s_core.settings import DataSettings, ModelSettings, Settings, StorageSettings


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tok") / "tokenizer")


@pytest.fixture(scope="session")
def sentences() -> list[tuple[str, str]]:
    """400 rows of three labels, with repeats and one text under two labels."""
    draw = random.Random(7)
    rows = [(draw.choice(("north", "south", "wést")), " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))) for _ in range(395)]
    return [
        *rows,
        ("north", "the twin"),
        ("south", "the twin"),
        ("north", "the copy"),
        ("north", "the copy"),
        ("north", "the copy"),
    ]


@dataclass(frozen=True)
class Prepared:
    """A dataset with everything around it."""

    scan: Scan
    store: ArtifactStore
    result: StepResult
    dataset: Dataset

    def files(self) -> dict[str, str]:
        """Path and hash of the files that make the dataset's identity."""
        return {entry.path: entry.sha256 for entry in self.store.manifest(self.result.ref).files if entry.identity}


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    def build(source: object, *, max_length: int = 8, task: str = "classification", classes: int = 0, **data: object) -> Settings:
        return Settings(
            name="demo",
            data=DataSettings.model_validate({"source": str(source), **data}),
            model=ModelSettings.model_validate({"max_length": max_length, "task": task, "classes": classes}),
            storage=StorageSettings(uri=str(tmp_path / "store")),
        )

    return build


@pytest.fixture
def prepare(settings_for: Callable[..., Settings], tokenizer_folder: Path) -> Callable[..., Prepared]:
    def run(source: object, *, engine: DataEngine | None = None, store: Path | None = None, **settings: object) -> Prepared:
        given = settings_for(source, **settings)
        if store is not None:
            given = given.model_copy(update={"storage": StorageSettings(uri=str(store))})
        engine = engine or LocalEngine()
        found = scan(given, engine)
        opened = ArtifactStore.open(given.storage)
        result = prepare_dataset(given, opened, engine, scan=found, tokenizer_folder=tokenizer_folder)
        return Prepared(found, opened, result, Dataset.open(opened, result.ref))

    return run


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tsv(sentences: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tsv(tmp_path_factory.mktemp("tsv") / "rows.tsv", sentences)
