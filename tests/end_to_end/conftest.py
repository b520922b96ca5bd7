"""Small real inputs: a random RoBERTa with a tokenizer of its own, and labelled sentences that can be learned."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect_stand import packages_of_a_user
from tiny_networks import roberta_with
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TOPICS = {
    "cocina": ["arroz", "sal", "aceite", "horno", "sopa", "pan", "queso", "limón"],
    "fútbol": ["gol", "portero", "balón", "liga", "árbitro", "equipo", "césped", "penalti"],
    "tiempo": ["lluvia", "viento", "nube", "sol", "niebla", "calor", "trueno", "helada"],
}
COMMON = ["el", "la", "un", "con", "hoy", "muy", "y", "sin", "para", "siempre"]
RUN_LIMIT_S = 280


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """The last line of standard output."""
        value: dict[str, object] = json.loads(self.out.splitlines()[-1])
        return value


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``config.json`` of a small RoBERTa and a tokenizer trained on the sentences."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text for _, text in sentences(600)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )
    fast.save_pretrained(folder / "tokenizer")
    config = roberta_with(tokenizer, max_position_embeddings=66)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def sentences(count: int, *, seed: int = 5) -> list[tuple[str, str]]:
    """Labelled sentences whose words give the label away."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = sorted(TOPICS)[number % len(TOPICS)]
        words = draw.sample(TOPICS[label], 3) + draw.sample(COMMON, 3)
        draw.shuffle(words)
        rows.append((label, f"{' '.join(words)} {number}"))
    return rows


@pytest.fixture(scope="session")
def tsv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 sentences in three classes."""
    path = tmp_path_factory.mktemp("data") / "rows.tsv"
    path.write_text("".join(f"{label}\t{text}\n" for label, text in sentences(300)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_flags(tiny_model: Path) -> list[str]:
    """Flags that name the small model."""
    return [
        "--model.source",
        f"config:{tiny_model}/config.json",
        "--model.tokenizer",
        str(tiny_model / "tokenizer"),
        "--model.max_length",
        "32",
    ]


@pytest.fixture(scope="session")
def learning_flags() -> list[str]:
    """Flags of a training by two workers that learns enough to be promoted."""
    steps = ["--train.max_steps", "30", "--train.epochs", "50", "--train.learning_rate", "0.01"]
    return [*steps, "--train.batch_size", "16", "--train.workers", "2"]


@pytest.fixture
def ts4s(tmp_path: Path) -> Callable[..., Result]:
    """Run the command line as a user does, in a process of its own, in a folder with packages of the user, without a hub."""

    def run(*words: str, timeout_s: float = RUN_LIMIT_S, environ: dict[str, str] | None = None) -> Result:
        folder = tmp_path / "here"
        folder.mkdir(exist_ok=True)
        packages_of_a_user(folder)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), **(environ or {})}
        command = [sys.executable, "-P", "-m", "flows.cli", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
        return Result(done.returncode, done.stdout, done.stderr)

    return run
