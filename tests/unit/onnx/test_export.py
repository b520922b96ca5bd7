from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from ts4s_core.errors import ParityError, UnsupportedModelError
from ts4s_core.onnx.exporting.export_graph import DATA_FILE, MODEL_FILE, OPSET, check_graph, export_graph, write_graph
from ts4s_core.onnx.sources.families import CAUSAL, family_task

Make = Callable[..., torch.nn.Module]
Shared = Callable[..., tuple[torch.nn.Module, Any, Path]]
FAMILIES = ("bert", "roberta", "gpt2", "llama")
#: Made of what those are made of, or nearly.
ALIKE = ("xlm-roberta", "camembert", "mistral", "distilbert", "electra", "qwen2")


@pytest.fixture(scope="module")
def shared(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared("bert")``: module, graph and folder, exported once for all tests that only read them."""
    made: dict[tuple[str, bool], tuple[torch.nn.Module, Any, Path]] = {}

    def get(family: str, *, zeros: bool = False) -> tuple[torch.nn.Module, Any, Path]:
        if (family, zeros) not in made:
            module = tiny(family, zeros=zeros)
            folder = tmp_path_factory.mktemp(family)
            made[family, zeros] = (module, exported(module, folder, family), folder)
        return made[family, zeros]

    return get


def exported(module: torch.nn.Module, folder: Path, family: str) -> Any:
    graph = export_graph(module, task="causal-lm" if family in CAUSAL else "encoder", max_positions=64)
    folder.mkdir(exist_ok=True)
    write_graph(graph, folder)
    return graph


def run(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / MODEL_FILE)
    (output,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return output


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.long) for family in ALIKE)])
def test_family_computes_the_same_in_onnx_runtime_on_other_shapes(family: str, shared: Shared) -> None:
    module, _, folder = shared(family)
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 1), (5, 13), (3, 60)):
        ids = rng.integers(5, 200, shape)
        mask = np.ones_like(ids)
        mask[-1, shape[1] // 2 + 1 :] = 0
        with torch.no_grad():
            output = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        expected = (output.logits if family in CAUSAL else output.last_hidden_state).numpy()
        assert np.abs(run(folder, ids, mask) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    assert check_graph(folder / MODEL_FILE, module, task="causal-lm" if family in CAUSAL else "encoder") < 1e-5


@pytest.mark.parametrize("family", ["roberta", "gpt2", pytest.param("qwen2", marks=pytest.mark.long)])
@pytest.mark.parametrize("zeros", [False, True], ids=["random", "equal weights"])
def test_every_parameter_is_in_the_map_with_its_value(family: str, zeros: bool, shared: Shared) -> None:
    module, graph, folder = shared(family, zeros=zeros)
    names = graph.names
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / MODEL_FILE).graph.initializer}
    assert names.unused == ()
    assert list(names.parameters) == [name for name, _ in module.named_parameters(remove_duplicate=False)]
    for name, (initializer, transposed) in names.parameters.items():
        expected = module.get_parameter(name).detach().numpy()
        assert np.array_equal(held[initializer], expected.T if transposed else expected)
    # Equal biases stay apart: each must be trained for itself.
    assert len({initializer for initializer, _ in names.parameters.values()}) == len(names.parameters)


def test_tied_weights_have_two_names_and_are_said_to_be_one(shared: Shared) -> None:
    names = shared("gpt2")[1].names
    assert names.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert names.parameters["transformer.wte.weight"] == ("transformer.wte.weight", False)
    assert names.parameters["lm_head.weight"] == ("transformer.wte.weight.transposed", True)
    assert names.to_json()["parameters"]["lm_head.weight"] == {
        "initializer": "transformer.wte.weight.transposed",
        "transposed": True,
    }


def test_graph_has_dynamic_axes_named_inputs_and_fused_nodes(shared: Shared) -> None:
    folder = shared("bert")[2]
    model = onnx.load(folder / MODEL_FILE, load_external_data=False)
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "last_hidden_state": ["batch", "sequence", 32],
    }
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Attention"), kinds.count("Gelu"), kinds.count("LayerNormalization")) == (2, 2, 5)
    assert (folder / DATA_FILE).stat().st_size >= 4 * 200 * 32


def test_module_is_left_as_it_was(tiny: Make, tmp_path: Path) -> None:
    module = tiny("roberta")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    exported(module, tmp_path, "roberta")
    assert not any(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_bytes_are_the_same_in_another_process_and_name_no_place(shared: Shared, tmp_path: Path) -> None:
    shared_folder = shared("roberta")[2]
    program = f"""
import sys
from pathlib import Path
from ts4s_core.onnx.exporting.export_graph import export_graph, write_graph
sys.path.append({str(Path(__file__).parents[2])!r})
import tiny_networks
write_graph(export_graph(tiny_networks.tiny_module("roberta"), task="encoder", max_positions=64), Path("."))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=120)
    for file in (MODEL_FILE, DATA_FILE):
        here, there = ((folder / file).read_bytes() for folder in (shared_folder, tmp_path))
        assert hashlib.sha256(here).hexdigest() == hashlib.sha256(there).hexdigest()
    graph = (shared_folder / MODEL_FILE).read_bytes()
    assert not [word for word in (b"site-packages", b"/home", b"/tmp", b".py", b"stack_trace") if word in graph]


class Folding(torch.nn.Module):
    """A module whose scale the exporter folds into the matrix."""

    def __init__(self, *, used: bool) -> None:
        super().__init__()
        from transformers import BertConfig

        self.config = BertConfig(vocab_size=200)
        self.table = torch.nn.Embedding(200, 8)
        self.spare = torch.nn.Parameter(torch.rand(8))
        self.used = used

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        hidden = self.table(input_ids) * attention_mask[:, 0, 0, :, None]
        if self.used:
            hidden = hidden + (self.spare * 2.0 + 1.0)
        return BaseModelOutput(last_hidden_state=hidden)


def test_weight_that_is_folded_away_is_an_error_that_names_it() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Weights spare were not found in the exported graph"):
        export_graph(Folding(used=True).eval(), task="encoder", max_positions=64)


def test_weight_without_a_say_in_the_output_is_listed() -> None:
    names = export_graph(Folding(used=False).eval(), task="encoder", max_positions=64).names
    assert names.unused == ("spare",)
    assert list(names.parameters) == ["table.weight"]


def test_another_model_behind_the_graph_is_noticed(tiny: Make, tmp_path: Path) -> None:
    module = tiny("bert")
    exported(module, tmp_path, "bert")
    with torch.no_grad():
        module.get_parameter("encoder.layer.1.output.dense.bias")[0] += 0.1
    with pytest.raises(ParityError, match=r"expected a difference of at most 0.0001, got"):
        check_graph(tmp_path / MODEL_FILE, module, task="encoder")


def test_weights_that_are_not_finite_are_noticed(tiny: Make, tmp_path: Path) -> None:
    module = tiny("bert")
    with torch.no_grad():
        module.get_parameter("embeddings.LayerNorm.bias")[3] = torch.nan
    exported(module, tmp_path, "bert")
    with pytest.raises(ParityError, match=r"got nan. Are all of its weights finite"):
        check_graph(tmp_path / MODEL_FILE, module, task="encoder")


@pytest.mark.parametrize(
    ("family", "wanted", "words"),
    [
        ("deberta-v2", "encoder", r"deberta-v2 of x is not supported yet, because .* Use one of bert, roberta"),
        ("t5", "encoder", r"'t5' of x is not taken: expected one of bert, roberta, xlm-roberta"),
        ("mamba", "causal-lm", r"'mamba' of x is not taken: expected one of gpt2, llama, mistral, qwen2"),
        ("gpt2", "encoder", r"gpt2 of x is a language model: expected an encoder .* Use model.task language-model"),
        ("bert", "causal-lm", r"bert of x is an encoder .* Use model.task classification"),
    ],
)
def test_other_families_are_refused_with_the_reason(family: str, wanted: Any, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        family_task(family, wanted=wanted, source="x")
