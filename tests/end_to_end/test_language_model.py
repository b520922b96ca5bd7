"""``ts4s language-model`` as a user runs it: Spark, Prefect's temporary server, real workers; and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOPICS = {
    "cocina": ["arroz", "sal", "aceite", "horno", "sopa", "pan", "queso", "limón"],
    "fútbol": ["gol", "portero", "balón", "liga", "árbitro", "equipo", "césped", "penalti"],
    "tiempo": ["lluvia", "viento", "nube", "sol", "niebla", "calor", "trueno", "helada"],
}


def book(lines: int, *, seed: int = 1) -> str:
    """Sentences in which some words are always followed by the same ones."""
    draw = random.Random(seed)
    text = []
    for _ in range(lines):
        words = [word for topic in draw.sample(sorted(TOPICS), 2) for word in draw.sample(TOPICS[topic], 2)]
        text.append(" ".join(part for word in words for part in (word, "de", "la", "casa")) + ".\n")
    return "".join(text)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"{number}.txt").write_text(book(12, seed=number), encoding="utf-8")
    return folder


def flags(source: Path, *more: str) -> list[str]:
    return [
        "--json",
        *("--name", "lm", "--storage.uri", "store", "--data.source", str(source), "--data.window", "16"),
        *("--data.split_by", "document", "--model.vocabulary_size", "300", "--generate.max_new_tokens", "12"),
        *more,
    ]


def small_network(steps: int) -> list[str]:
    sizes = {"architecture": "window", "hidden_size": 64, "embedding_size": 32, "context": 4}
    training = {"max_steps": steps, "batch_size": 64, "epochs": 50, "early_stopping_patience": 9, "learning_rate": 0.01}
    given = {f"--model.{name}": value for name, value in sizes.items()} | {
        f"--train.{name}": value for name, value in training.items()
    }
    return [str(word) for pair in given.items() for word in pair]


def test_text_to_a_promoted_model_and_a_sample(ts4s: Callable[..., Any], tmp_path: Path, text: Path) -> None:
    done = ts4s("language-model", *flags(text, *small_network(100), "--spark.master", "local[2]", "--generate.prompt", "sopa de"))
    assert done.code == 0, done.err
    result = done.json
    assert result["status"] == "done"
    assert set(result["artifacts"]) == {"dataset", "model", "trained", "report", "text"}
    assert set(result["seconds"]) == {"prepare", "export", "import", "train", "evaluate", "generate", "total"}
    metrics = result["metrics"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    # Three of four words follow for certain; the fourth is one of 24.
    assert metrics["next_token_accuracy"] > 0.7
    assert 0.2 < metrics["bits_per_byte"] < 0.6
    assert result["promoted"] is True
    assert "beats how often each token occurs" in result["why"]
    assert result["sample"].startswith("sopa de")
    assert "la casa" in result["sample"]

    store = tmp_path / "here" / "store"
    trained = store / result["artifacts"]["trained"]
    rows = list(csv.DictReader((trained / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 100
    assert float(rows[-1]["accuracy"]) > float(rows[0]["accuracy"])
    assert sum(bool(row["validation_loss"]) for row in rows) >= 1
    assert len(rows[-1]["memory_per_worker"].split(";")) == 2
    stats = (trained / "stats.txt").read_text()
    assert "task_ms" in stats
    assert "driver" in stats  # Spark's own figures
    report = store / result["artifacts"]["report"]
    contexts = json.loads((report / "next_tokens.json").read_text())
    assert contexts[0]["context"] == "sopa de"
    assert contexts[0]["candidates"][0]["text"] == " la"
    assert "Likeliest next tokens" in (report / "report.html").read_text()
    assert (store / result["artifacts"]["text"] / "sample.txt").read_text().strip() == result["sample"].strip()


@pytest.mark.long
def test_a_transformer_has_one_hash_for_any_number_of_workers_and_is_not_made_again(ts4s: Callable[..., Any], text: Path) -> None:
    size = ["--model.hidden_size", "32", "--model.layers", "1", "--model.attention_heads", "2", "--train.max_steps", "12"]
    hashes = []
    for workers in (1, 2, 4):
        run = [*size, "--train.workers", str(workers), "--spark.master", "none", "--reuse", "false", "--name", f"w{workers}"]
        done = ts4s("language-model", *flags(text, *run))
        assert done.code == 0, done.err
        hashes.append(done.json["weights_sha256"])
    assert len(set(hashes)) == 1
    again = ts4s("language-model", *flags(text, *size, "--train.workers", "2", "--spark.master", "none", "--name", "w4"))
    assert again.json["status"] == "unchanged"
    assert again.json["weights_sha256"] == hashes[0]
    assert again.json["sample"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.window", "100000"], "data.window"),
        (["--data.stride", "17"], "data.stride 17 is larger than data.window 16"),
        (["--data.window", "4000", "--data.block_bytes", "4000"], "too little text for one window on each side"),
        pytest.param(["--generate.prompt_file", "nowhere.txt"], "generate.prompt_file", marks=pytest.mark.long),
    ],
    ids=["window", "stride", "too little text", "prompts"],
)
def test_what_is_refused_leaves_nothing(ts4s: Callable[..., Any], tmp_path: Path, text: Path, more: list[str], said: str) -> None:
    done = ts4s("language-model", *flags(text, *small_network(2), *more, "--spark.master", "none"))
    assert (done.code, done.out) == (2, "")
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.err
    assert not (tmp_path / "here" / "store").exists()


def test_what_is_no_text_is_refused(ts4s: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "latin.txt"
    source.write_bytes(("año niño\n" * 3_000).encode("latin-1"))
    done = ts4s("language-model", *flags(source, *small_network(2), "--spark.master", "none"))
    assert done.code == 2
    assert "latin.txt:1 not UTF-8" in done.err
    assert not (tmp_path / "here" / "store").exists()
