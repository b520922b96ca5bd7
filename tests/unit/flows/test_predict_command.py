"""``ts4s predict``, ``models export`` and ``models compare`` as a user types them, without Spark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.cli import main as cli


def ts4s(tiny_models: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    storage = tiny_models.settings("roberta").storage
    spark = [] if words[1] == "export" else ["--spark.master", "none"]
    code = cli.main([*words, "--storage.uri", storage.uri, "--storage.cache_dir", storage.cache_dir, *spark])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_predict(tiny_models: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ref = tiny_models.trained("roberta")
    (tmp_path / "rows.tsv").write_text("ham\tw7 w8\nw9\n")
    words = ["predict", "--data.source", str(tmp_path / "rows.tsv"), "--output", str(tmp_path / "out")]
    code, out, _ = ts4s(tiny_models, capsys, *words, "--model", f"roberta@{ref.version}", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["rows"], result["errors"], result["output"]) == (2, 0, str(tmp_path / "out"))
    assert pq.read_table(tmp_path / "out").column("text").to_pylist() == ["w7 w8", "w9"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "none"], "none"),
        (["--model", "roberta", "--output", "{tmp}"], "already exists"),
        (["--model", "roberta", "--errors", "skip"], "--errors skip is not valid: expected mark or refuse"),
        (["--model", "roberta", "--form", "vectors"], "needs --embeddings"),
        ([], "--model"),
    ],
)
def test_what_predict_refuses(
    tiny_models: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    tiny_models.trained("roberta")
    (tmp_path / "rows.tsv").write_text("w9\n")
    before = files(tiny_models.folder)
    given = [word.format(tmp=tmp_path) for word in words]
    code, out, err = ts4s(tiny_models, capsys, "predict", "--data.source", str(tmp_path / "rows.tsv"), *given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert files(tiny_models.folder) == before


def test_models_export(tiny_models: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_models.trained("roberta")
    words = ["models", "export", "roberta", "--format", "onnx", "--to", str(tmp_path / "out")]
    code, out, _ = ts4s(tiny_models, capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["file"] == "model.onnx"
    code, out, err = ts4s(tiny_models, capsys, *words)
    assert (code, out) == (2, "")
    assert err.strip().splitlines() == [
        f"error: --to {tmp_path / 'out'} is not empty: expected a new folder, or an empty one. Choose another, or empty it"
    ]


def test_models_compare(tiny_models: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny_models.trained("roberta", with_dataset=True, seed=3)
    second = tiny_models.trained("roberta", with_dataset=True, seed=4)
    before = files(tiny_models.folder)
    words = ["models", "compare", f"roberta@{first.version}", f"roberta@{second.version}"]
    code, out, _ = ts4s(tiny_models, capsys, *words, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["a"], result["b"], result["dataset"]) == (str(first), str(second), str(tiny_models.dataset))
    assert result["rows"] > 20
    accuracy = result["metrics"]["accuracy"]
    assert accuracy["gain"] == pytest.approx(accuracy["b"] - accuracy["a"])
    assert accuracy["low"] <= accuracy["gain"] <= accuracy["high"]
    assert result["metrics"]["loss"]["gain"] == pytest.approx(result["metrics"]["loss"]["a"] - result["metrics"]["loss"]["b"])
    assert files(tiny_models.folder) == before
    code, out, _ = ts4s(tiny_models, capsys, *words)
    assert "95 % interval" in out
