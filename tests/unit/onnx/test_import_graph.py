"""What is taken and what is not: files, opsets, inputs, outputs, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ts4s_core.errors import SourceError, UnsupportedModelError
from ts4s_core.onnx.importing.importer import import_graph
from ts4s_core.onnx.importing.sizes import check_file

TABLE = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
MATRIX = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def write(
    path: Path,
    nodes: list[Any],
    tensors: dict[str, Any],
    *,
    opset: int = 17,
    inputs: dict[str, Any] | None = None,
    output: tuple[str, list[Any]] = ("y", ["b", "s", 4]),
    **options: Any,
) -> Path:
    given = inputs or {"input_ids": ["b", "s"], "attention_mask": ["b", "s"]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path), **options)
    return path


GATHER = helper.make_node("Gather", ["table.weight", "input_ids"], ["x"])
TENSORS = {"table.weight": TABLE, "a.weight": MATRIX, "a.bias": MATRIX[0]}


def linear_nodes(*, bias_first: bool = False) -> list[Any]:
    added = ["a.bias", "z"] if bias_first else ["z", "a.bias"]
    return [GATHER, helper.make_node("MatMul", ["x", "a.weight"], ["z"]), helper.make_node("Add", added, ["y"])]


@pytest.mark.parametrize("bias_first", [False, True])
def test_matmul_and_add_are_one_linear(tmp_path: Path, bias_first: bool) -> None:
    module = import_graph(write(tmp_path / "m.onnx", linear_nodes(bias_first=bias_first), TENSORS), None)
    assert [type(part).__name__ for part in module.modules()].count("Linear") == 1
    torch.testing.assert_close(
        module(IDS, IDS), torch.from_numpy(TABLE)[IDS] @ torch.from_numpy(MATRIX) + torch.from_numpy(MATRIX[0])
    )


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_is_a_linear(tmp_path: Path, trans_b: int) -> None:
    nodes = [
        GATHER,
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "a.weight", "a.bias"], ["g"], transB=trans_b),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["g", "s"], ["y"]),
    ]
    module = import_graph(write(tmp_path / "m.onnx", nodes, {**TENSORS, "flat": np.array([-1, 4])}), None)
    parts = [type(part).__name__ for part in module.modules()]
    assert (parts.count("Linear"), parts.count("Reshape")) == (1, 0)  # the two reshapes around it are gone
    matrix = torch.from_numpy(MATRIX)
    expected = torch.from_numpy(TABLE)[IDS] @ (matrix.T if trans_b else matrix) + torch.from_numpy(MATRIX[0])
    torch.testing.assert_close(module(IDS, IDS), expected)
    assert torch.equal(module.get_parameter("a.weight"), matrix)


def test_map_says_name_orientation_and_ties(tmp_path: Path) -> None:
    nodes = [
        GATHER,
        helper.make_node("Gather", ["other", "input_ids"], ["x2"]),
        helper.make_node("Add", ["x", "x2"], ["sum"]),
        helper.make_node("MatMul", ["sum", "val_1"], ["y"]),
    ]
    tensors = {"table.weight": TABLE, "other": TABLE, "val_1": np.ascontiguousarray(MATRIX.T)}
    names = {
        "parameters": {
            "words.weight": {"initializer": "table.weight", "transposed": False},
            "again.weight": {"initializer": "other", "transposed": False},
            "dense.weight": {"initializer": "val_1", "transposed": True},
        },
        "tied": {"again.weight": "words.weight"},
    }
    module = import_graph(write(tmp_path / "m.onnx", nodes, tensors), names)
    assert [name for name, _value in module.named_parameters()] == ["words.weight", "dense.weight"]
    assert torch.equal(module.get_parameter("dense.weight"), torch.from_numpy(MATRIX))
    torch.testing.assert_close(module(IDS, IDS), 2 * torch.from_numpy(TABLE)[IDS] @ torch.from_numpy(MATRIX).T)


def test_map_that_does_not_fit(tmp_path: Path) -> None:
    names = {"parameters": {"words.weight": {"initializer": "gone", "transposed": False}}, "tied": {}}
    with pytest.raises(SourceError, match=r"expected the initializers that names\.json names, got none called gone"):
        import_graph(write(tmp_path / "m.onnx", linear_nodes(), TENSORS), names)


def test_weights_outside_the_file_and_in_half_precision(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in TENSORS.items()}
    path = write(tmp_path / "m.onnx", linear_nodes(), half)
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="weights.bin")
    module = import_graph(path, None)
    assert module.get_parameter("table.weight").dtype == torch.float32
    assert torch.equal(module.get_parameter("table.weight"), torch.from_numpy(half["table.weight"]).float())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SourceError, match=r"Reading of model m\.onnx: expected an ONNX file with its weights"):
        import_graph(path, None)


def test_weights_in_constant_nodes(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["dense.weight"], value=numpy_helper.from_array(MATRIX))
    nodes = [constant, GATHER, helper.make_node("MatMul", ["x", "dense.weight"], ["y"])]
    module = import_graph(write(tmp_path / "m.onnx", nodes, {"table.weight": TABLE}), None)
    assert {name for name, _value in module.named_parameters()} == {"table.weight", "dense.weight"}


@pytest.mark.parametrize("opset", [10, 24])
def test_opset_that_is_not_taken(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"expected an ONNX opset of 11 to 23, got {opset}"):
        import_graph(write(tmp_path / "m.onnx", linear_nodes(), TENSORS, opset=opset), None)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"input_ids": ["b", "s"], "pixels": ["b", "s"]}, "got pixels of 2 dimensions"),
        ({"input_ids": ["b", "s", 3]}, "got input_ids of 3 dimensions"),
        ({"attention_mask": ["b", "s"]}, "expected an input input_ids, got attention_mask"),
    ],
)
def test_inputs_that_are_not_taken(tmp_path: Path, inputs: dict[str, Any], said: str) -> None:
    first = helper.make_node("Gather", ["table.weight", next(iter(inputs))], ["x"])
    with pytest.raises(UnsupportedModelError, match=said):
        import_graph(write(tmp_path / "m.onnx", [first, *linear_nodes()[1:]], TENSORS, inputs=inputs), None)


def test_a_dimension_that_a_value_does_not_have(tmp_path: Path) -> None:
    shape = helper.make_node("Shape", ["a.bias"], ["d"], name="/size", start=1, end=2)
    filled = helper.make_node("Expand", ["x", "d"], ["y"])
    path = write(tmp_path / "m.onnx", [GATHER, shape, filled], TENSORS)
    with pytest.raises(SourceError, match=r"node /size that reads dimension 1 of a\.bias, which has 1\. Export it again"):
        import_graph(path, None)


def test_output_that_is_not_taken(tmp_path: Path) -> None:
    nodes = [GATHER, helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)]
    path = write(tmp_path / "m.onnx", nodes, TENSORS, output=("y", ["b", 4]))
    with pytest.raises(UnsupportedModelError, match=r"got y of 2 dimensions\. Export the encoder without its head"):
        import_graph(path, None)


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SourceError, match=r"Reading of model m\.onnx"):
        import_graph(tmp_path / "m.onnx", None)


def test_operator_that_is_not_taken_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [*linear_nodes()[:2], helper.make_node("Hardmax", ["z"], ["y"], name="/encoder/odd")]
    with pytest.raises(UnsupportedModelError, match=r"node /encoder/odd \(operator Hardmax\) at opset 17"):
        import_graph(write(tmp_path / "m.onnx", nodes, TENSORS), None)


def test_operator_in_a_form_that_is_not_taken(tmp_path: Path) -> None:
    nodes = [
        *linear_nodes()[:2],
        helper.make_node("Mod", ["z", "z"], ["m"], fmod=1),
        helper.make_node("Einsum", ["m"], ["y"], equation="bsh->bsh"),
    ]
    module = import_graph(write(tmp_path / "m.onnx", nodes, TENSORS), None)
    assert module(IDS, IDS).shape == (2, 3, 4)


def test_other_names_of_inputs_and_types(tmp_path: Path) -> None:
    """``input`` and ``segment_ids`` as other exporters call them; token types and positions are made here."""
    nodes = [
        helper.make_node("Gather", ["table.weight", "input"], ["x"]),
        helper.make_node("Gather", ["types.weight", "segment_ids"], ["t"]),
        helper.make_node("Gather", ["places.weight", "position_ids"], ["p"]),
        helper.make_node("Add", ["x", "t"], ["s"]),
        helper.make_node("Add", ["s", "p"], ["y"]),
    ]
    tensors = {"table.weight": TABLE, "types.weight": MATRIX[:2], "places.weight": TABLE[::-1].copy()}
    inputs = {name: ["b", "s"] for name in ("input", "segment_ids", "position_ids")}
    module = import_graph(write(tmp_path / "m.onnx", nodes, tensors, inputs=inputs), None)
    expected = torch.from_numpy(TABLE)[IDS] + torch.from_numpy(MATRIX)[0] + torch.from_numpy(TABLE[::-1].copy())[:3]
    torch.testing.assert_close(module(IDS, IDS), expected)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("SkipLayerNormalization", ["x", "x"], ["y"], domain="com.microsoft"),
            r"operator com\.microsoft\.SkipLayerNormalization",
        ),
        (helper.make_node("GatherElements", ["x", "x"], ["y"]), r"cannot be run: ValueError: Expected types of indices"),
    ],
    ids=["another domain", "indices in floating point"],
)
def test_what_no_converter_takes_is_said_before_the_first_write(tmp_path: Path, node: Any, message: str) -> None:
    path = write(tmp_path / "m.onnx", [GATHER, node], TENSORS)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError, match=message):
        check_file(path, largest_id=8, length=4, setting="model.max_length", source="model.source x")
