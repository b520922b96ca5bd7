"""``ts4s plan`` as a whole, on a tiny model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli.main import main

CONFIG = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    from tokenizers import Tokenizer, models

    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    source = ["--model.source", f"config:{tmp_path / 'config.json'}", "--model.tokenizer", str(folder)]
    return ["plan", *source, "--model.max_length", "32", "--storage.uri", str(tmp_path / "store"), "--json", "--rows", "100"]


def test_a_plan_of_a_configuration(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*words, "--workers", "4", "--workers-per-host", "2", "--network", "100Mbit"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["workers"] for row in plan["workers"]] == [1, 2, 4]
    assert [row["hosts"] for row in plan["workers"]] == [1, 1, 2]
    assert plan["data"] == {**plan["data"], "rows": 100, "assumed": True, "steps_per_epoch": 4, "steps": 8}
    assert plan["machine"]["gemm_gflops"] > 1
    one, two, four = plan["workers"]
    assert one["speed_up"] == 1
    assert one["seconds_per_step"] == pytest.approx(sum(one["of_step"].values()))
    assert one["seconds_per_epoch"] == pytest.approx(4 * one["seconds_per_step"])
    assert 0.1 < one["memory_gb"] < 3
    trained = plan["model"]["trained"]
    assert two["traffic_mb_per_step"] == pytest.approx(trained * 4 / 1e6, abs=1e-3)
    # Half of the weights, twice, out of a host of two workers of four, at 12.5 MB/s.
    assert four["of_step"]["exchange"] >= 2 * trained * 4 * 0.5 / 12.5e6 * 0.9
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--memory", "1MB"], "cannot fit"),
        (["--workers", "8"], "--workers 8 is more than train.logical_shards 4"),
        (["--network", "fast"], "--network 'fast' is not valid"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
):
    assert main([*words, *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    if "--memory" in given:  # both figures
        assert "0.00 GB" in error
        assert "GB each" in error
    assert not (tmp_path / "store").exists()
