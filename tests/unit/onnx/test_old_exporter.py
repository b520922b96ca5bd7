"""Files of the old exporter: opsets 11 to 17, decomposed operators, invented names, fixed axes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import import_graph
from ts4s_core.onnx.importing.parity import Ranges, parity_gate

AXES = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}}
LENGTH = 24


class Wrapper(torch.nn.Module):
    """What people export: positional inputs, the hidden states."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.roberta = module
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.roberta(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden


def export_old(module: torch.nn.Module, path: Path, *, opset: int, fixed: bool, **options: Any) -> Path:
    ids = torch.randint(3, 100, (1, LENGTH) if fixed else (2, 7), generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Wrapper(module),
            (ids, torch.ones_like(ids)),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["input_ids", "attention_mask"],
            output_names=["hidden"],
            dynamic_axes=None if fixed else AXES,
            **options,
        )
    return path


def set_attention(module: torch.nn.Module, kind: str) -> torch.nn.Module:
    module.config._attn_implementation = kind
    return module


def counts(graph: ImportedGraph) -> dict[str, int]:
    names = [type(module).__name__ for module in graph.modules()]
    return {name: names.count(name) for name in ("Linear", "LayerNorm", "TokenEmbedding", "Attention", "Gelu", "KeyMask")}


NATIVE = {"Linear": 12, "LayerNorm": 5, "TokenEmbedding": 3, "Attention": 2, "Gelu": 2, "KeyMask": 1}


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(
    ("family", "attention", "opset"),
    [("roberta", "eager", 11), ("bert", "eager", 13), ("bert", "sdpa", 14), ("roberta", "sdpa", 17), ("electra", "eager", 12)],
)
def test_old_file(
    family: str, attention: str, opset: int, fixed: bool, tiny: Callable[..., torch.nn.Module], tmp_path: Path
) -> None:
    module = set_attention(tiny(family), attention)
    path = export_old(module, tmp_path / "old.onnx", opset=opset, fixed=fixed)
    graph = import_graph(path, None)
    assert graph.fixed is None  # other batches and lengths than the one it was exported for
    assert counts(graph) == {**NATIVE, "Linear": 13 if family == "electra" else 12}
    ours = dict(graph.named_parameters())
    assert set(ours) == {f"roberta.{name}" for name, _value in module.named_parameters()}
    for name, value in module.named_parameters():
        assert torch.equal(ours[f"roberta.{name}"], value), name
    ranges = Ranges(vocab_size=200, pad_id=1, max_length=60, fixed=(1, LENGTH) if fixed else None)
    figures = parity_gate(graph, onnx_path=path, original=None, ranges=ranges)
    assert figures["original"].startswith("none")
    assert figures["forward"]["onnxruntime_imported"] <= 1e-5
    ids = torch.tensor([[5, 6, 7, 8, 1], [9, 5, 1, 1, 1], [4, 4, 4, 4, 4]])
    mask = (ids != 1).long()
    expected = module(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    found = graph.eval()(ids, mask)[mask.bool()]
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    whole = float(torch.stack([value.grad.norm() for value in module.parameters()]).norm())  # type: ignore[union-attr]
    for name, value in module.named_parameters():
        difference = float((ours[f"roberta.{name}"].grad - value.grad).norm())  # type: ignore[operator]
        assert difference <= 1e-5 * max(float(value.grad.norm()), 1e-2 * whole), name  # type: ignore[union-attr]


def test_names_without_any_in_the_file_are_unique_and_stable(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    """All initializers numbered and node names gone: operator and number are what is left."""
    module = tiny("bert")
    path = export_old(set_attention(module, "eager"), tmp_path / "old.onnx", opset=14, fixed=False)
    model = onnx.load(str(path))
    numbers = {tensor.name: str(1000 + n) for n, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = numbers[tensor.name]
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [numbers.get(name, name) for name in node.input]
    onnx.save(model, str(path))
    first, second = (import_graph(path, None) for _ in range(2))
    names = [name for name, _value in first.named_parameters()]
    assert names == [name for name, _value in second.named_parameters()]
    assert len(set(names)) == len(names) == 37
    assert sum(value.numel() for value in first.parameters()) == sum(value.numel() for value in module.parameters())


def test_names_come_from_the_path_of_the_node(tiny: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    path = export_old(set_attention(tiny("bert"), "eager"), tmp_path / "old.onnx", opset=14, fixed=False)
    model = onnx.load(str(path))
    invented = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".bias") and "dense" in tensor.name]
    changed = {tensor.name: f"onnx::Add_{n}" for n, tensor in enumerate(invented)}
    for tensor in invented:
        tensor.name = changed[tensor.name]
    for node in model.graph.node:
        node.input[:] = [changed.get(name, name) for name in node.input]
    onnx.save(model, str(path))
    names = {name for name, _value in import_graph(path, None).named_parameters()}
    assert "roberta.encoder.layer.0.output.dense.weight" in names
    assert "roberta.encoder.layer.0.output.dense.bias" in names


def test_equal_weights_that_the_exporter_merged_are_parameters_again(
    tiny: Callable[..., torch.nn.Module], tmp_path: Path
) -> None:
    module = set_attention(tiny("bert", zeros=True), "eager")
    path = export_old(module, tmp_path / "old.onnx", opset=14, fixed=False)
    names = {name.removeprefix("roberta.") for name, _value in import_graph(path, None).named_parameters()}
    assert names == {name for name, _value in module.named_parameters()}


class OneShape(torch.nn.Module):
    """Mixes tokens by a matrix that has the length in its shape: no other length can be fed."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.table = torch.nn.Embedding(30, 8)
        self.mix = torch.nn.Parameter(torch.randn(LENGTH, LENGTH, generator=generator).tril())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kept = self.table(input_ids) * attention_mask.unsqueeze(-1).float()
        return torch.matmul(self.mix, kept)


def test_graph_of_one_shape_alone_is_fed_padded_pieces(tmp_path: Path) -> None:
    module = OneShape().eval()
    ids = torch.ones((2, LENGTH), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (ids, ids),
            tmp_path / "one.onnx",
            dynamo=False,
            opset_version=14,
            input_names=["input_ids", "attention_mask"],
            output_names=["y"],
        )
    graph = import_graph(tmp_path / "one.onnx", None)
    assert graph.fixed == (2, LENGTH)
    short = torch.tensor([[3, 4, 5], [6, 7, 8], [9, 10, 11]])
    found = graph(short, torch.ones_like(short))
    expected = torch.matmul(module.mix[:3, :3], module.table(short))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    long = torch.ones((1, LENGTH + 1), dtype=torch.int64)
    with pytest.raises(UnsupportedModelError, match=rf"at most {LENGTH} tokens.*got {LENGTH + 1}"):
        graph(long, long)
