from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ts4s_core.errors import ParityError
from ts4s_core.onnx.exporting.export_graph import export_graph, write_graph
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import import_graph
from ts4s_core.onnx.importing.parity import LIMIT, Original, Ranges, batches, parity_gate

RANGES = Ranges(vocab_size=200, pad_id=0, max_length=60)
Trio = tuple[ImportedGraph, Original, Path]
_CACHE: dict[str, Path] = {}


@pytest.fixture
def trio(tiny: Callable[..., torch.nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """A BERT as imported graph, original and file; exported once."""
    module = tiny("bert")
    if "path" not in _CACHE:
        folder = tmp_path_factory.mktemp("parity")
        exported = export_graph(module, task="encoder", max_positions=64)
        write_graph(exported, folder)
        _CACHE["path"] = folder / "model.onnx"
    names = {name: {"initializer": name, "transposed": False} for name, _value in module.named_parameters()}
    for name, value in module.named_parameters():
        if value.ndim == 2 and "embeddings" not in name:
            names[name] = {"initializer": f"{name}.transposed", "transposed": True}
    return import_graph(_CACHE["path"], {"parameters": names, "tied": {}}), Original(module), _CACHE["path"]


def test_figures_of_an_exact_import(trio: Trio) -> None:
    imported, original, path = trio
    figures = parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)
    assert figures["shapes"] == [[2, 7], [3, 16], [1, 3], [4, 33]]
    assert figures["forward"].keys() == {"onnxruntime_imported", "onnxruntime_original"}
    assert figures["float32"]["forward"] <= LIMIT
    assert figures["float32"]["gradient"] <= LIMIT
    assert "float64" not in figures
    assert figures["parameters"] == {"imported": 37, "unused": []}


def test_breach_of_the_forward_is_refused(trio: Trio) -> None:
    imported, original, path = trio
    with torch.no_grad():
        imported.get_parameter("encoder.layer.1.output.dense.weight")[0, 0] += 0.01
    with pytest.raises(ParityError, match=r"Forward of onnxruntime and imported differ in tensor output for shape \(2, 7\)"):
        parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)


def test_breach_between_original_and_file_is_refused(trio: Trio) -> None:
    imported, original, path = trio
    with torch.no_grad():
        original.module.get_parameter("encoder.layer.0.output.dense.bias")[0] += 0.01
    with pytest.raises(ParityError, match="Forward of onnxruntime and original differ"):
        parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)


def test_breach_of_a_gradient_names_the_tensor(trio: Trio) -> None:
    """Same forward, but one gradient is a little too large: float64 shows that this is no noise."""
    imported, original, path = trio
    imported.get_parameter("encoder.layer.0.output.dense.weight").register_hook(lambda gradient: gradient * 1.001)
    with pytest.raises(ParityError, match=r"Gradient of tensor encoder\.layer\.0\.output\.dense\.weight: .* at most 1e-09"):
        parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)


def test_parameter_without_a_gradient_on_one_side_is_named(trio: Trio) -> None:
    imported, original, path = trio
    layer = imported.get_submodule("encoder.layer.0.output.dense")
    bias = layer.bias
    layer.register_parameter("bias", torch.nn.Parameter(bias.detach().clone()))  # type: ignore[union-attr]
    layer.forward = lambda data: torch.nn.functional.linear(data, layer.weight, layer.bias.detach())  # type: ignore[assignment]
    with pytest.raises(
        ParityError, match=r"same parameters as the original, got a difference in encoder\.layer\.0\.output\.dense\.bias"
    ):
        parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)


def test_float64_decides_where_float32_is_too_coarse(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    imported, original, path = trio
    # Another order of the same sums: noise, and nothing else.
    layer = imported.get_submodule("encoder.layer.0.output.dense")
    layer.forward = lambda data: (data.flip(-1) @ layer.weight.flip(-1).t()) + layer.bias  # type: ignore[assignment, operator]
    monkeypatch.setattr("ts4s_core.onnx.importing.parity.LIMIT", 1e-8)
    monkeypatch.setattr("ts4s_core.onnx.importing.parity._against_runtime", lambda *_given: {})
    figures = parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)
    assert 1e-8 < figures["float32"]["forward"] < 1e-5
    assert "beyond" in figures["float32"]
    assert figures["float64"]["forward"] <= 1e-9
    assert figures["float64"]["gradient"] <= 1e-9
    assert {p.dtype for p in imported.parameters()} == {p.dtype for p in original.parameters()} == {torch.float32}


def test_other_names_are_refused(trio: Trio) -> None:
    imported, original, path = trio
    imported.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ParityError, match="expected the original's names and shapes, got stray"):
        parity_gate(imported, onnx_path=path, original=original, ranges=RANGES)


def test_without_an_original_the_file_itself_is_compared(trio: Trio) -> None:
    imported, _original, path = trio
    figures = parity_gate(imported, onnx_path=path, original=None, ranges=RANGES)
    assert figures["original"] == "none: forward against ONNX Runtime alone"
    assert figures["forward"].keys() == {"onnxruntime_imported"}
    with torch.no_grad():
        imported.get_parameter("embeddings.LayerNorm.bias")[0] += 0.01
    with pytest.raises(ParityError, match="Forward of onnxruntime and imported differ"):
        parity_gate(imported, onnx_path=path, original=None, ranges=RANGES)


def test_batches_have_padding_and_no_padding_token_inside() -> None:
    found = list(batches(Ranges(vocab_size=20, pad_id=7, max_length=12)))
    assert [tuple(batch.input_ids.shape) for batch in found] == [(2, 7), (3, 12), (1, 3), (4, 12)]
    ids = np.concatenate([batch.real(batch.input_ids).numpy() for batch in found])
    assert 7 not in ids
    assert ids.min() >= 0
    assert ids.max() < 20
    assert any((batch.attention_mask == 0).any() for batch in found)
    assert all((batch.input_ids[batch.attention_mask == 0] == 7).all() for batch in found)
    assert all(batch.attention_mask[:, 0].all() for batch in found)
