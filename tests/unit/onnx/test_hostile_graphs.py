"""ONNX graphs that break what exporters keep: refused with an error of ours, whichever library stumbles over them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from model_specs import small_spec
from onnx import TensorProto, helper, numpy_helper

from ts4s_core.errors import IntegrityError, SourceError, Ts4sError, UnsupportedModelError
from ts4s_core.models.heads import initial_head
from ts4s_core.models.import_base import base_of_onnx
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.models.network_spec import NetworkSpec
from ts4s_core.models.plain_onnx.builder import Lowered, WeightUse
from ts4s_core.models.plain_onnx.files import with_mapped_weights
from ts4s_core.models.weights import read_weights, save_weights, weights_sha256
from ts4s_core.onnx.graph.checks import refuse_absent_inputs
from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node
from ts4s_core.onnx.importing.importer import import_graph


def graph() -> onnx.ModelProto:
    """A table, a cast and a constant added."""
    made = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["words"]),
            helper.make_node("Cast", ["words"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.float32([1.0, 2.0, 3.0, 4.0]))),
            helper.make_node("Add", ["cast", "one"], ["output"]),
        ],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", "t", 4])],
        [numpy_helper.from_array(np.ones((20, 4), np.float32), "table")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def no_attributes(model: onnx.ModelProto) -> None:
    del model.graph.node[1].attribute[:]


def text_that_is_none(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[1].attribute.add()
    attribute.name, attribute.type, attribute.s = "mode", onnx.AttributeProto.STRING, b"\xff\xfe"


def constant_of_other_size(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].t.dims[0] = 2**40


def constant_of_no_type(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].t.data_type = 99


def no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def circle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "output"


@pytest.mark.parametrize(
    "change", [no_attributes, text_that_is_none, constant_of_other_size, constant_of_no_type, no_inputs, circle]
)
def test_graph_that_no_exporter_makes(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = graph()
    onnx.save(model, tmp_path / "model.onnx")
    assert [tuple(parameter.shape) for parameter in import_graph(tmp_path / "model.onnx", None).parameters()] == [(20, 4), (4,)]
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "names.json").write_text('{"task": "encoder"}')
    with pytest.raises(Ts4sError, match=r"Import of|Reading of"):
        import_graph(tmp_path / "model.onnx", None)
    with pytest.raises(Ts4sError, match=r"Import of|Reading of|Parity of"):
        base_of_onnx(ModelFolder(tmp_path), None, max_length=16)


def test_what_a_library_raises_is_named(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="in the forms that are taken, got TypeError: ") as raised:
        import_graph(tmp_path / "model.onnx", {"parameters": {"table": 7}})
    assert isinstance(raised.value.__cause__, TypeError)


def empty_constant_with_data(model: onnx.ModelProto) -> None:
    """ONNX's shape inference ended the process at one of these."""
    model.graph.node[2].attribute[0].t.dims[0] = 0


def not_in_order(model: onnx.ModelProto) -> None:
    """A circle of products by numbers: the search for GELU went round it for ever."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2.0), "two"))
    model.graph.node.insert(1, helper.make_node("Mul", ["turned", "two"], ["once"]))
    model.graph.node.insert(2, helper.make_node("Mul", ["once", "two"], ["turned"]))
    model.graph.node[-1].input[0] = "turned"


def sum_with_nothing(model: onnx.ModelProto) -> None:
    """ONNX Runtime read through a null pointer."""
    model.graph.node[-1].CopyFrom(helper.make_node("Sum", ["cast", ""], ["output"]))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", [empty_constant_with_data, not_in_order, sum_with_nothing])
def test_graph_that_crashed_or_held_up_the_import(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = graph()
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=r"Reading of model model\.onnx"):
        import_graph(tmp_path / "model.onnx", None)


@pytest.mark.parametrize("shape", [(2**20, 255), (1, 2**40), (0, 8), (8, 0)])
def test_a_fixed_shape_that_no_batch_should_have(shape: tuple[int, int], tmp_path: Path) -> None:
    model = graph()
    for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    for dimension in model.graph.output[0].type.tensor_type.shape.dim[:2]:
        dimension.dim_param = "any"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=rf"of 1 to 32,768 tokens .*, got {shape[0]} x {shape[1]}\."):
        import_graph(tmp_path / "model.onnx", None)


@pytest.mark.parametrize(
    ("op", "inputs", "refused"),
    [
        ("Clip", ["x", "", "most"], False),
        ("Clip", ["", "least"], True),
        ("Add", ["x", ""], True),
        ("Concat", ["x", "", "y"], True),
        ("Relu", ["x", ""], True),
        ("OfNoStandard", ["x", ""], False),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["graph", "branch"])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_inputs_that_may_be_absent(op: str, inputs: list[str], domain: str, *, refused: bool, inside: bool) -> None:
    node = helper.make_node(op, inputs, ["z"], name="here")
    if inside:
        node = helper.make_node("If", ["c"], ["w"], then_branch=helper.make_graph([node], "inner", [], []))
    opsets = [helper.make_opsetid(domain, 17)]
    model = helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=opsets)
    if refused:
        with pytest.raises(ValueError, match=f"node here without one of the inputs that its operator {op} needs"):
            refuse_absent_inputs(model)
    else:
        refuse_absent_inputs(model)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The files of a model of ours: a table, a norm, and a head of two classes."""
    nodes = [
        Node("Embedding", ["input_ids"], ["x"], {"weight": "table.weight", "shape": [9, 4]}, DOMAIN),
        Node("LayerNorm", ["x"], ["y"], {"weight": "norm.weight", "bias": "norm.bias", "size": 4, "epsilon": 1e-5}, DOMAIN),
    ]
    graph = Graph(nodes, ["input_ids"], "y", 23, shapes={"input_ids": ("b", "s")})
    (tmp_path / "graph.onnx").write_bytes(graph.to_model().SerializeToString())
    (tmp_path / "model.json").write_text(json.dumps(SPEC.to_json()))
    table = {"table.weight": np.ones((9, 4), np.float32), **dict.fromkeys(("norm.weight", "norm.bias"), np.ones(4, np.float32))}
    save_weights(tmp_path / "model.safetensors", {**table, **initial_head(4, 2, seed=0)})
    return tmp_path


SPEC = small_spec(dropout=0.1, attention_dropout=0.1)
NETWORK = NetworkSpec(architecture="recurrent", vocab_size=2**30, embedding_size=2**10, positions=8, hidden_size=4)


def norm(folder: Path) -> None:
    model = onnx.load(folder / "graph.onnx")
    next(attribute for attribute in model.graph.node[1].attribute if attribute.name == "size").i = 2**40
    (folder / "graph.onnx").write_bytes(model.SerializeToString())


def head(folder: Path) -> None:
    (folder / "model.json").write_text(json.dumps(replace(SPEC, hidden_size=2**20).to_json()))


def network(folder: Path) -> None:
    spec = replace(SPEC, task="language-model", labels=(), network=NETWORK.to_json())
    (folder / "model.json").write_text(json.dumps(spec.to_json()))


@pytest.mark.parametrize("plant", [norm, head, network])
def test_sizes_take_no_memory_before_the_weights_have_them(plant: Callable[[Path], None], planted: Path) -> None:
    """Four terabytes: a model that made room for what its files say would have stopped for want of memory."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    assert ModelFolder(planted).build().eval()(ids, ids).shape == (1, 2)
    plant(planted)
    with pytest.raises(IntegrityError, match=r"Weights model\.safetensors do not fit their graph: got "):
        ModelFolder(planted).build()


@pytest.mark.parametrize("layers", [0, 2**40, "two", None])
def test_layers_are_counted_before_they_are_made(layers: object) -> None:
    with pytest.raises(IntegrityError, match=r"expected the sizes of a small network, got .*layers|not supported"):
        NetworkSpec.from_json(NETWORK.to_json() | {"layers": layers})


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64", "BOOL", "I8"])
def test_every_type_of_tensor_has_a_hash(dtype: str, tmp_path: Path) -> None:
    size = {"BF16": 2, "F16": 2, "F64": 8}.get(dtype, 1)
    header = json.dumps({"a": {"dtype": dtype, "shape": [2, 1], "data_offsets": [0, 2 * size]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * size))
    (array,) = (tensors := read_weights(tmp_path / "w.safetensors")).values()
    expected = hashlib.sha256(f"a\0{array.dtype.name}\x002x1\0{2 * size}\0".encode() + bytes(2 * size)).hexdigest()
    assert weights_sha256(tensors) == expected


HUGE = b'{"a": {"dtype": "F32", "shape": [0, 9223372036854775815], "data_offsets": [0, 0]}}'
NO_WEIGHTS = [
    b"",
    b"\xff" * 8,
    struct.pack("<Q", 2) + b"[]",
    struct.pack("<Q", 2**40) + b"{}",
    struct.pack("<Q", len(HUGE)) + HUGE,
]


@pytest.mark.parametrize("data", NO_WEIGHTS, ids=range(len(NO_WEIGHTS)))
def test_mapped_weights_of_a_file_that_is_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    wanted = Lowered([], {}, {}, opset=17, ir_version=8, output="v", weights={"v": WeightUse("a", transposed=False)})
    with pytest.raises(IntegrityError, match=r"w\.safetensors: expected a whole safetensors file"):
        with_mapped_weights(wanted, tmp_path / "w.safetensors")


def test_mapped_weights_that_are_missing_or_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.ones(2, np.float16)})
    uses = {"v": WeightUse("a", transposed=False), "w": WeightUse("b", transposed=False)}
    with pytest.raises(IntegrityError, match="do not fit their graph: expected a, b as float32"):
        with_mapped_weights(Lowered([], {}, {}, opset=17, ir_version=8, output="v", weights=uses), path)
