"""Graphs that another exporter wrote, trained and handed over: the imported graph itself, whatever its weights are called."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_networks import VOCABULARY
from trained_models import make_settings, seal_trained

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError, SourceError, UnsupportedModelError
from ts4s_core.handover.export import export_trained
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.sources.resolve import resolve_source
from ts4s_core.pipeline.checks import check_source
from ts4s_core.prediction.runners import OnnxRunner
from ts4s_core.settings import Settings

POSITIONS = 40


class Wrapped(torch.nn.Module):
    """BERT under a name of the script's own, as many scripts export it; token types are an input where it is asked for."""

    def __init__(self) -> None:
        import transformers

        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, attn_implementation="eager", **sizes
        )
        self.m = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """``(B, T)`` each to ``(B, T, H)``."""
        return self.m(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state


def write_graph(folder: Path, *, inputs: int = 2, fixed: tuple[int, int] | None = None, half: bool = False) -> Path:
    """The graph as PyTorch's older exporter writes it, opset 14."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    names = ["input_ids", "attention_mask", "token_type_ids"][:inputs]
    ids = torch.randint(5, VOCABULARY, fixed or (2, 7))
    given = (ids, torch.ones_like(ids), torch.zeros_like(ids))[:inputs]
    axes = {} if fixed else {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
    module = Wrapped().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.half() if half else module,
            given,
            str(folder / "model.onnx"),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            opset_version=14,
            dynamo=False,
            verbose=False,
        )
    return folder / "model.onnx"


def trained(folder: Path, **graph: Any) -> tuple[Settings, ArtifactRef]:
    settings = make_settings(folder, "bert", source=str(write_graph(folder / "base", **graph)), max_length=16)
    return settings, seal_trained(settings, std=0.4)


@pytest.mark.parametrize("graph", [{"inputs": 3}, {"fixed": (1, 32)}], ids=["three inputs", "one shape"])
def test_the_imported_graph_is_handed_over(tmp_path: Path, graph: dict[str, Any]) -> None:
    settings, ref = trained(tmp_path, **graph)
    store = ArtifactStore.open(settings.storage)
    shapes = [(1, 1), (3, 5), (2, 16)]  # in one shape's graph too: what was fixed in it is counted anew
    model = ModelFolder(store.local(ref)).merged
    draw = np.random.default_rng(0)
    batches = [draw.integers(5, VOCABULARY, size=shape) for shape in shapes]
    masks = [np.ones_like(ids) for ids in batches]
    masks[-1][-1, shapes[-1][1] // 2 :] = 0
    given = [tuple(map(torch.from_numpy, pair)) for pair in zip(batches, masks, strict=True)]
    with torch.inference_mode():
        expected = [model(*pair).numpy() for pair in given]
    made = export_trained(store, ref, form="torch", to=tmp_path / "torch")
    program = torch.export.load(tmp_path / "torch" / "model.pt2").module()
    assert made["answers"]["difference"] < 1e-5
    onnx = export_trained(store, ref, form="onnx", to=tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    assert onnx["inputs"] == [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert json.loads((tmp_path / "onnx" / "export.json").read_text())["inputs"] == onnx["inputs"]
    for pair, logits in zip(given, expected, strict=True):
        bound = 1e-5 * max(1, np.abs(logits).max())
        assert np.abs(program(*pair).detach().numpy() - logits).max() < bound
        # One shape's file still takes that shape alone: texts are padded to it.
        assert np.abs(OnnxRunner(session)(*(value.numpy() for value in pair)) - logits).max() < bound


def refusal(settings: Settings, error: type[Exception]) -> str:
    """What the check before the first write says."""
    store = ArtifactStore.open(settings.storage)
    with pytest.raises(error) as caught:
        check_source(settings, resolve_source(settings.model, store), store)
    assert not Path(settings.storage.uri).exists()
    return str(caught.value)


def test_sizes_are_those_of_the_graph_whatever_stands_beside_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path = write_graph(tmp_path / "base")
    for config in (None, {"model_type": "bert", "vocab_size": 9_999, "max_position_embeddings": 512}):
        if config is not None:
            (path.parent / "config.json").write_text(json.dumps(config))
        settings = make_settings(tmp_path, "bert", source=str(path), max_length=POSITIONS + 1)
        message = refusal(settings, SettingsError)
        assert message.startswith(f"model.max_length {POSITIONS + 1} is longer than model.source {path} takes")
        assert f"expected at most {POSITIONS}." in message
        settings = make_settings(tmp_path, "bert", source=str(path), max_length=POSITIONS)
        wide = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
        wide.add_tokens(["one more"])
        wide.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
        message = refusal(settings, SourceError)
        assert f"the largest id {VOCABULARY} and a token table of {VOCABULARY} rows" in message
        assert "model.tokenizer" in message


def test_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "bert", source=str(write_graph(tmp_path / "base", half=True)))
    assert "computes in half precision: expected float32" in refusal(settings, UnsupportedModelError)
