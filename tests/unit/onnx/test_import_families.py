"""Export of each family, import of what was exported: same numbers, same gradients, same names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ts4s_core.onnx.converters.native import Linear, TokenEmbedding
from ts4s_core.onnx.exporting.export_graph import export_graph, write_graph
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import import_graph
from ts4s_core.onnx.importing.parity import Original, Ranges, parity_gate
from ts4s_core.onnx.sources.families import CAUSAL

ENCODERS = ("roberta", "bert", "distilbert", "xlm-roberta", "electra")
#: Operators that only get in the way of speed: the rewrites must leave none of them in an encoder.
LEFTOVER = {"OnnxMatMul", "OnnxGather", "OnnxErf", "OnnxSoftmaxV1V11", "OnnxReduceStaticAxes", "OnnxExpand", "OnnxGatherElements"}


def imported(module: torch.nn.Module, family: str, folder: Path) -> tuple[ImportedGraph, dict[str, Any]]:
    exported = export_graph(module, task="causal-lm" if family in CAUSAL else "encoder", max_positions=64)
    write_graph(exported, folder)
    names = exported.names.to_json()
    return import_graph(folder / "model.onnx", names), names


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama"])
def test_family(family: str, tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    module = tiny(family)
    graph, _names = imported(module, family, tmp_path)
    assert {n for n, _p in graph.named_parameters()} == {n for n, _p in module.named_parameters()}
    original = dict(module.named_parameters())
    assert all(torch.equal(value, original[name]) for name, value in graph.named_parameters())
    ranges = Ranges(vocab_size=200, pad_id=1 if "roberta" in family else 0, max_length=60)
    figures = parity_gate(graph, onnx_path=tmp_path / "model.onnx", original=Original(module), ranges=ranges)
    assert figures["parameters"] == {"imported": len(original), "unused": []}
    assert figures["float32"]["forward"] <= 1e-5
    assert "beyond" not in figures["float32"]
    assert figures["forward"]["onnxruntime_imported"] <= 1e-5
    if family in ENCODERS:
        used = [type(part).__name__ for part in graph.modules()]
        assert not LEFTOVER & set(used)
        assert used.count("Attention") == used.count("Gelu") == 2
        assert used.count("KeyMask") == 1
        assert used.count("Linear") == (13 if family == "electra" else 12)
        assert used.count("Weight") == 0


def test_modules_lie_where_their_names_say(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    module = tiny("roberta")
    graph, _names = imported(module, "roberta", tmp_path)
    query = graph.get_submodule("encoder.layer.1.attention.self.query")
    assert isinstance(query, Linear)
    assert query.role == "query"
    assert query.weight.shape == (32, 32)
    assert torch.equal(query.weight, module.get_parameter("encoder.layer.1.attention.self.query.weight"))
    assert isinstance(graph.get_submodule("embeddings.word_embeddings"), TokenEmbedding)


def test_tied_weights_are_one_parameter(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    graph, names = imported(tiny("gpt2"), "gpt2", tmp_path)
    assert names["tied"] == {"lm_head.weight": "transformer.wte.weight"}
    found = [name for name, _value in graph.named_parameters()]
    assert "transformer.wte.weight" in found
    assert "lm_head.weight" not in found
    logits = graph(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.int64))
    logits.sum().backward()
    tied = graph.get_parameter("transformer.wte.weight")
    assert tied.grad is not None
    assert tied.grad[100].abs().sum() > 0  # a token that is not in the input: through the output matrix


def test_equal_weights_stay_parameters_of_their_own(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    """Fresh weights hold many equal tensors (norms of ones, biases of zeros), which exporters merge."""
    module = tiny("bert", zeros=True)
    graph, _names = imported(module, "bert", tmp_path)
    assert {n for n, _p in graph.named_parameters()} == {n for n, _p in module.named_parameters()}
    norms = [p for n, p in graph.named_parameters() if n.endswith("LayerNorm.weight")]
    assert len(norms) == 5
    assert len({norm.data_ptr() for norm in norms}) == 5


def test_the_import_is_the_same_every_time(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    _graph, names = imported(tiny("bert"), "bert", tmp_path)
    first, second = (import_graph(tmp_path / "model.onnx", names) for _ in range(2))
    assert [(n, type(m).__name__) for n, m in first.named_modules()] == [(n, type(m).__name__) for n, m in second.named_modules()]
    assert [n for n, _p in first.named_parameters()] == [n for n, _p in second.named_parameters()]
