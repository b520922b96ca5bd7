"""Prediction from a file to Parquet with a real tiny model: the answers, the marks, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from model_specs import small_spec
from tiny_networks import word_tokenizer

from ts4s_core.artifacts.upkeep.verify import verify
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.data.data_engine import LocalEngine
from ts4s_core.errors import DataError, SettingsError
from ts4s_core.models.length_batches import length_batches, padded
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.prediction import job as predict_module
from ts4s_core.prediction import predict_split as work
from ts4s_core.prediction.job import predict
from ts4s_core.prediction.options import PredictOptions
from ts4s_core.prediction.runners import TOKENS_PER_BATCH
from ts4s_core.prediction.source_rows import TextRow


@pytest.fixture
def job(tiny_models: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``job(source, data={...}, ref=..., output=..., ...)``: run a prediction."""

    def run(
        source: Path, *, data: dict[str, Any] | None = None, ref: ArtifactRef | None = None, slots: int = 1, **options: str
    ) -> Any:
        settings = tiny_models.settings("roberta")
        given = settings.data.model_copy(update={"source": str(source), **(data or {})})
        options = {"output": str(tmp_path / "out"), **options}
        return predict(
            settings.model_copy(update={"data": given}),
            tiny_models.store,
            LocalEngine(),
            model=ref or tiny_models.trained("roberta"),
            options=PredictOptions(**options),  # type: ignore[arg-type]
            slots=slots,
        )

    return run


def logits_of(tiny_models: Any, texts: list[str], ref: ArtifactRef) -> np.ndarray:
    """One text at a time, in PyTorch."""
    model = ModelFolder(tiny_models.store.local(ref)).build()
    model.eval()
    rows = []
    for text in texts:
        ids = torch.tensor([[0, *(int(word[1:]) for word in text.split()[:22]), 2]])
        with torch.inference_mode():
            rows.append(model(ids, torch.ones_like(ids)).numpy()[0])
    return np.array(rows)


def test_answers_are_the_models_in_the_order_of_the_rows(
    tiny_models: Any, job: Any, tmp_path: Path, labelled_sentences: Callable[..., list[tuple[str, str]]]
) -> None:
    texts = [text for _, text in labelled_sentences(150, seed=4)]
    (tmp_path / "rows.txt").write_text("".join(f"{text}\n" for text in texts))
    result = job(tmp_path / "rows.txt")
    ref = tiny_models.trained("roberta")
    assert (result["rows"], result["errors"], result["runtime"]) == (150, 0, "onnxruntime")
    assert result["rows_per_s"] > 0
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["text", "label", "probabilities", "model_version", "error"]
    assert table.column("text").to_pylist() == texts
    logits = logits_of(tiny_models, texts, ref)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = np.array([[row["ham"], row["spam"], row["tofu"]] for row in table.column("probabilities").to_pylist()])
    assert np.abs(found - shares).max() < 1e-5
    assert table.column("label").to_pylist() == [("ham", "spam", "tofu")[best] for best in logits.argmax(axis=1)]
    assert set(table.column("model_version").to_pylist()) == {ref.version}
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["rows"] == 150


def test_rows_that_cannot_be_predicted_are_marked_or_refuse(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "text": "w7"}\n{"id": 2, "text": null}\n{"id": 3, "text": 4}\n{"id": 4, "text": "w9 w8"}\n')
    assert job(path, data={"id_column": "id"})["errors"] == 2
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["label"] is None for row in rows] == [False, True, True, False]
    assert [row["probabilities"] is None for row in rows] == [False, True, True, False]
    assert rows[1]["error"] == f"{path} line 2: null text"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"rows.jsonl line 2: null text. Correct it, or use --errors mark"):
        job(path, errors="refuse", output=str(tmp_path / "other"))
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(SettingsError, match="already exists"):
        job(path)


def test_a_text_that_the_model_has_no_places_for_marks_its_row_alone() -> None:
    """An artifact of before its tables were tried says a longer text than its graph takes."""

    def run(ids: Any, _mask: Any) -> Any:
        if ids.shape[1] > 3:
            raise IndexError("index out of range in self")
        return ids[:, :1].astype(np.float32) + np.array([[0, 1]])

    model = work.LoadedModel(run, word_tokenizer(), small_spec(vocab_size=40, max_length=9))
    rows = [TextRow("w7 w5"), TextRow("w1 w2 w3 w4"), TextRow(None, None, "null text"), TextRow("w8 w9 w10"), TextRow("w6 " * 8)]
    marked, values = model.answers(rows)
    said = [row.reason for row in marked]
    assert said == [
        None,
        "the text has 4 tokens: the model takes at most 3",
        "null text",
        None,
        "the text has 8 tokens: the model takes at most 3",
    ]
    assert values is not None
    assert values.shape == (2, 2)
    with pytest.raises(IndexError):  # no text is the fault of a model that runs on none
        work.LoadedModel(lambda *_: run(np.zeros((1, 9), int), None), word_tokenizer(), small_spec(vocab_size=40)).answers(rows)


def test_a_token_that_the_model_has_no_row_for_marks_its_row_alone() -> None:
    def run(ids: Any, _mask: Any) -> Any:
        assert ids.max() < 9
        return ids[:, :1].astype(np.float32) + np.array([[0, 1]])

    model = work.LoadedModel(run, word_tokenizer(), small_spec(vocab_size=9))
    rows = [TextRow("w7 w5"), TextRow(None, None, "null text"), TextRow("w8 w9"), TextRow("w8")]
    marked, values = model.answers(rows)
    assert [row.reason for row in marked] == [
        None,
        "null text",
        "token 9 of the text is unknown to the model: expected at most 8",
        None,
    ]
    assert values is not None
    assert values.tolist() == [[7, 8], [8, 9]]
    assert model.answers(rows[1:3])[1] is None


def test_numbers_that_are_not_finite_are_marked(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.txt").write_text("w7\nw8 w9\nw10 w11 w12\n")

    def broken(run: Any, tokens: Any, *, pad_id: int) -> np.ndarray:
        return np.array([[1, 2, 3], [np.nan, 0, 0], [3, 2, 1]], np.float32)

    monkeypatch.setattr(work, "run_sorted", broken)
    assert job(tmp_path / "rows.txt")["errors"] == 1
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["label"] for row in rows] == ["tofu", None, "ham"]
    assert rows[1]["error"] == "the model gave a number that is not finite"


def test_without_an_output_the_result_is_a_sealed_artifact(tiny_models: Any, job: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("ham\tw7 w8\nw9\n")
    result = job(tmp_path / "rows.tsv", output="")
    ref = ArtifactRef.parse(result["artifact"])
    manifest = tiny_models.store.manifest(ref)
    assert (ref.kind, manifest.facts["rows"]) == ("predictions", 2)
    assert manifest.upstream == {"trained": str(tiny_models.trained("roberta"))}
    assert pq.read_table(tiny_models.store.local(ref) / "part-00000.parquet").column("text").to_pylist() == ["w7 w8", "w9"]
    assert [version.damages for version in verify(tiny_models.store, ref.name) if version.ref == str(ref)] == [()]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7])
def test_no_row_group_is_empty(tiny_models: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(work, "ROWS_PER_CHUNK", 3)
    (tmp_path / "rows.tsv").write_text("\n" + "".join(f"w{5 + number}\n" for number in range(rows)))
    ref = ArtifactRef.parse(job(tmp_path / "rows.tsv", output="")["artifact"])
    (entry,) = (entry for entry in tiny_models.store.manifest(ref).files if entry.path.endswith(".parquet"))
    assert [piece.rows for piece in entry.row_groups or ()] == [min(3, rows - at) for at in range(0, rows, 3)] + [0]
    assert pq.read_table(tiny_models.store.local(ref) / entry.path).num_rows == rows


def test_no_rows_give_the_columns(job: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("\n\n")
    assert job(tmp_path / "rows.tsv")["rows"] == 0
    assert pq.read_table(tmp_path / "out").column_names == ["text", "label", "probabilities", "model_version", "error"]


@pytest.mark.parametrize("how", ["mean", "first"])
def test_embeddings(tiny_models: Any, job: Any, tmp_path: Path, how: str) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "a b", "text": "w7 w8"}\n{"id": "c", "text": "w9 w10 w11"}\n{"id": "d", "text": ""}\n'
    )
    job(tmp_path / "rows.jsonl", embeddings=how)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    model = ModelFolder(tiny_models.store.local(tiny_models.trained("roberta"))).build()
    model.eval()
    ids = torch.tensor([[0, 9, 10, 11, 2]])
    with torch.inference_mode():
        hidden = model.encode(ids, torch.ones_like(ids))[0].numpy()
    wanted = hidden.mean(axis=0) if how == "mean" else hidden[0]
    assert np.abs(np.array(rows[1]["embedding"]) - wanted).max() < 1e-5
    assert rows[2]["embedding"] is None
    job(tmp_path / "rows.jsonl", data={"id_column": "id"}, embeddings=how, form="vectors", output=str(tmp_path / "text"))
    words = [line.split(" ") for line in (tmp_path / "text" / "part-00000.txt").read_text().splitlines()]
    assert [word[0] for word in words] == ["a_b", "c"]
    assert np.abs(np.array(words[1][1:], float) - wanted).max() < 1e-4
    assert json.loads((tmp_path / "text" / "part-00000.errors.jsonl").read_text())["id"] == "d"


def test_shared_parts_and_small_chunks_give_the_same_rows(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ROWS_PER_CHUNK", 7)
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"w{5 + number % 190} w9\n" for number in range(40)))
    job(tmp_path / "rows.csv", slots=3, output=str(tmp_path / "shared"))
    job(tmp_path / "rows.csv", output=str(tmp_path / "alone"))
    shared, alone = (pq.read_table(tmp_path / name).to_pydict() for name in ("shared", "alone"))
    assert shared == alone
    assert len(list((tmp_path / "shared").glob("*.parquet"))) == 6


def test_a_model_with_adapters_and_one_that_only_pytorch_runs(
    tiny_models: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.txt").write_text("w7 w8\nw9 w44 w3\n")
    ref = tiny_models.trained("roberta", name="lora", lora_rank=4)
    assert job(tmp_path / "rows.txt", ref=ref, output=str(tmp_path / "fast"))["runtime"] == "onnxruntime"

    def refused(*_args: object, **_named: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(predict_module, "onnx_runner", refused)
    assert job(tmp_path / "rows.txt", ref=ref, output=str(tmp_path / "slow"))["runtime"] == "torch"
    fast, slow = (pq.read_table(tmp_path / name).column("probabilities").to_pylist() for name in ("fast", "slow"))
    for ours, theirs in zip(fast, slow, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_options_that_are_none() -> None:
    with pytest.raises(SettingsError, match="--errors ignore is not valid: expected mark or refuse"):
        PredictOptions.of({"errors": "ignore"})
    with pytest.raises(SettingsError, match="--form vectors needs --embeddings"):
        PredictOptions.of({"form": "vectors", "output": None})


def test_batches_are_of_like_length_and_bounded() -> None:
    lengths = [3, 100, 7, 7, 128, 1] * 40
    found = list(length_batches(lengths, tokens=TOKENS_PER_BATCH))
    assert sorted(int(row) for batch in found for row in batch) == list(range(240))
    assert all(len(batch) * lengths[batch[0]] <= 512 for batch in found)
    ids, mask = padded([[5, 6], [7]], pad_id=1)
    assert ids.tolist() == [[5, 6], [7, 1]]
    assert mask.tolist() == [[1, 1], [1, 0]]
