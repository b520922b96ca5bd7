"""Predictions of saved modules, inputs in every form, and weights that stay on the host."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from ts4s_core.data.tokenizers import StoredTokenizer
from ts4s_core.errors import DataError, InputError, UnsupportedModelError
from ts4s_core.models.length_batches import padded
from ts4s_core.modules.graphs import module_of_onnx
from ts4s_core.modules.inputs import InputForm, encoder
from ts4s_core.modules.job_module import OnDevice, saved_module
from ts4s_core.modules.predicting import Predictor, input_of, valid_numbers
from ts4s_core.modules.saved import weights_of

ROWS = pa.array([[0.0, 1.0, 2.0], None, [3.0, 4.0, 5.0], [6.0, 7.0, 9.0]], pa.list_(pa.float32()))


def predictor(module: nn.Module, *, form: InputForm | None = None, **saved: Any) -> Predictor:
    whole = replace(saved_module(module), **saved)
    return Predictor(whole, form or InputForm(widths=(3,)), batch_size=2, device="cpu", threads=1)


def linear(outputs: int) -> nn.Linear:
    torch.manual_seed(outputs)
    return nn.Linear(3, outputs)


def logits(module: nn.Module) -> Any:
    with torch.no_grad():
        return module(torch.tensor([row for row in ROWS.to_pylist() if row])).double().numpy()


def test_classes_in_batches_with_a_null() -> None:
    found = predictor(linear(4)).predict(ROWS).to_pylist()
    expected = logits(linear(4))
    assert found[1] is None
    kept = [found[place] for place in (0, 2, 3)]
    assert [row["prediction"] for row in kept] == expected.argmax(1).tolist()
    assert np.allclose([row["raw"] for row in kept], expected, atol=1e-6)
    assert np.allclose(np.sum([row["probability"] for row in kept], axis=1), 1)


def test_one_logit_is_two_classes() -> None:
    found = predictor(linear(1), activation="sigmoid").predict(ROWS.drop_null()).to_pylist()
    expected = logits(linear(1))[:, 0]
    assert [row["prediction"] for row in found] == (expected > 0).astype(float).tolist()
    assert np.allclose([row["probability"][1] for row in found], 1 / (1 + np.exp(-expected)), atol=1e-6)
    assert [row["raw"][0] for row in found] == [-row["raw"][1] for row in found]


def test_values_and_vectors() -> None:
    value = predictor(linear(1), output="value").predict(ROWS.drop_null()).to_pylist()
    assert np.allclose([row["prediction"] for row in value], logits(linear(1))[:, 0], atol=1e-6)
    vector = predictor(linear(2), output="vector", activation="none").predict(ROWS.slice(1, 1)).to_pylist()
    assert vector == [None]
    with pytest.raises(DataError, match="output value wants one number a row, the module gave 2"):
        predictor(linear(2), output="value").predict(ROWS)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match="A row has 2 numbers: expected 3"):
        predictor(linear(1)).predict(pa.array([[1.0, 2.0]], pa.list_(pa.float32())))


def test_inputs_are_cut_and_shaped() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    one, two = InputForm(widths=(2, 4), separate=True).arguments(rows)
    assert (one.shape, two.shape) == ((2, 2), (2, 4))
    image, *_none = InputForm(widths=(6,), shape=(1, 2, 3)).arguments(rows)
    assert image.shape == (2, 1, 2, 3)
    assert InputForm(widths=(6,), whole=True).arguments(rows)[0].dtype == torch.int64
    form = InputForm(widths=(6,), shape=(1, 2, 3))
    assert InputForm.from_json(form.to_json()) == form
    with pytest.raises(DataError, match=r"inputShape \[4\] holds 4 numbers"):
        InputForm(widths=(6,), shape=(4,)).check()


def test_texts_are_cut_and_padded() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encode = encoder(StoredTokenizer(tokenizer.to_str()), InputForm(text=True, max_length=3))
    ids, mask = padded(encode(["a b a b", "b", ""]), pad_id=0)
    assert ids.tolist() == [[1, 2, 1], [2, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_columns_of_a_function_are_one_row() -> None:
    """Numbers and lists, in any slice; a row counts as invalid where one of its columns is."""
    lists = pa.array([[9.0], [1.0, 2.0], None, [3.0, 4.0], [5.0, math.nan], [6.0, 7.0]], pa.list_(pa.float64()))[1:]
    numbers = pa.array([10.0, 20.0, 30.0, 40.0, None])
    form = InputForm(separate=True)
    row, found = input_of((lists, numbers), form, columns=2)
    assert row.to_pylist() == [[1.0, 2.0, 10.0], None, [3.0, 4.0, 30.0], None, None]
    assert found.widths == (2, 1)
    one = pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.int64()))
    assert input_of(one, replace(found, whole=True), columns=2)[0].to_pylist() == one.to_pylist()
    with pytest.raises(DataError, match=r"arguments have \[1, 2\] numbers: expected \[2, 1\]"):
        input_of((numbers, lists), found, columns=2)
    with pytest.raises(DataError, match="got 3 arguments: expected 2"):
        input_of((numbers, numbers, numbers), form, columns=2)
    with pytest.raises(DataError, match="other numbers in one input column than in another"):
        input_of((pa.array([[1.0], [2.0, 3.0]]), pa.array([[1.0, 1.0], [2.0]])), form, columns=2)


def test_tokens_of_a_function_have_as_many_in_each_column() -> None:
    ids, kinds = pa.array([[1, 2, 3], [4]]), pa.array([[0, 0, 1], [1]])
    row, found = input_of((ids, kinds), InputForm(whole=True, tokens=2), columns=2)
    assert row.to_pylist() == [[1, 2, 3, 0, 0, 1], [4, 1]]
    assert found == InputForm(whole=True, tokens=2)


def test_a_moved_forward_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    rows = torch.randn(8, 3)
    module(rows).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    OnDevice(module, "cpu")(rows).square().sum().backward()
    assert all(torch.equal(one, parameter.grad) for one, parameter in zip(expected, module.parameters(), strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(InputError, match="device cuda is not on this host: torch sees 0 GPUs"):
        OnDevice(nn.Linear(1, 1), "cuda")


def test_odd_weights_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"weight \(torch\.bfloat16\)"):
        weights_of(nn.Linear(2, 1, dtype=torch.bfloat16))


def test_an_onnx_graph_trains(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [("w", (3, 4)), ("b", (4,)), ("v", (2, 4)), ("c", (2,))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "b"], ["i"]),
            helper.make_node("Relu", ["i"], ["j"]),
            helper.make_node("Gemm", ["j", "v", "c"], ["y"], transB=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name) for name, shape in weights],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    module = module_of_onnx(data, folder=tmp_path)
    assert sum(parameter.numel() for parameter in module.parameters()) == 12 + 4 + 8 + 2
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    stored = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(data).graph.initializer
    }
    expected = torch.relu(x @ stored["w"] + stored["b"]) @ stored["v"].T + stored["c"]
    assert torch.allclose(module(x), expected, atol=1e-6)
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with pytest.raises(UnsupportedModelError, match="ONNX graph cannot be read"):
        module_of_onnx(data[:40], folder=tmp_path)


def test_numbers_that_are_none_make_their_row_null() -> None:
    rows = pa.array([[1.0, 2.0], None, [3.0, None], [], [float("nan"), 4.0], [5.0, float("inf")], [6.0]], pa.list_(pa.float64()))
    found = valid_numbers(rows, whole=False)
    assert found.to_pylist() == [[1.0, 2.0], None, None, [], None, None, [6.0]]
    assert found.type.value_type == pa.float32()
    whole = valid_numbers(pa.array([[1, 2], [3, None], [4]]).slice(1), whole=True)
    assert whole.to_pylist() == [None, [4]]
    assert whole.type.value_type == pa.int32()
