"""Every operator converter of ts4s: a model of one node, ONNX Runtime against the converted module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.onnx.converters.newer_opsets import SAME_MEANING
from ts4s_core.onnx.graph.graph import Node, graph_of
from ts4s_core.onnx.importing.importer import assemble
from ts4s_core.onnx.importing.registered_converters import onnx2torch

RANDOM = np.random.default_rng(5)
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def floats(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class Case:
    operator: str
    opsets: tuple[int, ...]
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    #: Inputs from here on are constants of the graph.
    constants_from: int = 1


Q, K, V = floats(2, 4, 5, 8), floats(2, 4, 6, 8), floats(2, 4, 6, 8)
MASK = np.tril(np.ones((5, 6), dtype=bool), 1)
COS, SIN = np.cos(floats(2, 5, 4)), np.sin(floats(2, 5, 4))
X = floats(2, 3, 4)

CASES = [
    Case("Attention", (23,), (Q, K, V), constants_from=9),
    Case("Attention", (23,), (Q, K, V, MASK[None, None]), constants_from=9),
    Case("Attention", (23,), (Q, K, V, np.where(MASK, 0, -3).astype(np.float32)[None, None]), {"scale": 0.2}, constants_from=9),
    Case("Attention", (23,), (Q, Q, Q), {"is_causal": 1}, constants_from=9),
    Case("Attention", (23,), (Q, floats(2, 2, 6, 8), floats(2, 2, 6, 8)), constants_from=9),
    Case("Attention", (23,), (floats(2, 5, 32), floats(2, 6, 32), floats(2, 6, 32)), {"q_num_heads": 4, "kv_num_heads": 4}, 1, 9),
    Case("RotaryEmbedding", (23,), (Q, COS, SIN), constants_from=9),
    Case("RotaryEmbedding", (23,), (Q, COS, SIN), {"interleaved": 1}, constants_from=9),
    Case("RotaryEmbedding", (23,), (floats(2, 5, 32), COS, SIN), {"num_heads": 4}, constants_from=9),
    Case("RotaryEmbedding", (23,), (Q, COS[:, :, :2], SIN[:, :, :2]), {"rotary_embedding_dim": 4}, constants_from=9),
    Case("RotaryEmbedding", (23,), (Q, COS[0], SIN[0], np.array([[4, 3, 2, 1, 0]] * 2)), constants_from=9),
    Case("RMSNormalization", (23,), (X, floats(4)), {"epsilon": 1e-3}),
    Case("Gelu", (20,), (X,), {"approximate": "none"}),
    Case("Gelu", (20,), (X,), {"approximate": "tanh"}),
    Case("Reshape", (19, 21, 23), (X, ints(0, -1))),
    Case("Reshape", (19, 21, 23), (X, ints(4, 6)), {"allowzero": 1}),
    Case("Flatten", (21, 23), (X,), {"axis": 2}),
    Case("Flatten", (21, 23), (X,), {"axis": -1}),
    Case("Flatten", (21, 23), (floats(5),), {"axis": 1}),
    Case("Split", (18,), (floats(2, 7),), {"axis": 1, "num_outputs": 3}, 3),
    Case("Split", (18,), (floats(2, 7), ints(3, 4)), {"axis": 1}, 2),
    Case("Trilu", (14,), (floats(4, 4),), {"upper": 0}),
    Case("Trilu", (14,), (floats(4, 4), np.array(1, dtype=np.int64)), {"upper": 1}),
    Case("Size", (13, 19, 21, 23), (X,)),
    Case("ReduceMean", (18,), (X, ints(-1))),
    Case("ReduceMean", (18,), (X, ints(0, 2)), {"keepdims": 0}),
    Case("ReduceMean", (18,), (X,)),
    Case("ReduceMean", (18,), (X, ints()), {"noop_with_empty_axes": 1}),
    Case("ReduceMax", (18, 20), (X, ints(1))),
    Case("ReduceMin", (18, 20), (X, ints(1))),
    Case("ReduceL2", (18,), (X, ints(1))),
    Case("Cast", (19, 21, 23), (X,), {"to": TensorProto.INT64}),
    Case("ConstantOfShape", (20, 21, 23), (ints(2, 3),), {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
    Case("Cos", (22,), (X,)),
    Case("Sin", (22,), (X,)),
    Case("Dropout", (22,), (X,)),
    Case("Elu", (22,), (X,), {"alpha": 0.7}),
    Case("Selu", (22,), (X,)),
    Case("HardSigmoid", (22,), (X,)),
    Case("HardSwish", (22,), (X,)),
    Case("Mish", (18, 22), (X,)),
    Case("Round", (22,), (X,)),
    Case("Equal", (19,), (ints(1, 2), ints(1, 3))),
    Case("GreaterOrEqual", (16,), (ints(1, 2, 4), ints(1, 3, 3))),
    Case("LessOrEqual", (16,), (ints(1, 2, 4), ints(1, 3, 3))),
    Case("Identity", (19, 21, 23), (X,)),
    Case("IsInf", (20,), (np.array([1, np.inf], np.float32),)),
    Case("IsNaN", (9, 20), (np.array([1, np.nan], np.float32),)),
    Case("Shape", (19, 21, 23), (X,), {"start": 1}),
    Case("Softplus", (22,), (X,)),
    Case("Softsign", (22,), (X,)),
    Case("Squeeze", (23,), (floats(2, 1, 3), ints(1))),
    Case("Transpose", (21, 23), (X,), {"perm": [0, 2, 1]}),
    Case("Unsqueeze", (21, 23), (X, ints(1))),
]


@pytest.mark.parametrize(
    ("case", "opset"),
    [pytest.param(case, opset, id=f"{n}-{case.operator}-{opset}") for n, case in enumerate(CASES) for opset in case.opsets],
)
def test_operator_as_onnx_runtime(case: Case, opset: int) -> None:
    model = model_of(case, opset)
    given = {f"x{n}": array for n, array in enumerate(case.inputs) if n < case.constants_from}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, given)
    module = onnx2torch().convert(model).eval()
    found = module(*(torch.from_numpy(np.asarray(array)) for array in given.values()))
    found = list(found) if isinstance(found, (tuple, list)) and not isinstance(found, torch.Tensor) else [found]
    found = list(found[0]) if case.outputs > 1 and len(found) == 1 else found
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.from_numpy(np.asarray(theirs)).dtype
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=2e-6)


def test_constant_of_newer_opsets_gives_its_value() -> None:
    for opset in (19, 21, 23):
        node = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [2], [1.5, 2.5]))
        add = helper.make_node("Add", ["x0", "c"], ["y0"])
        model = made([node, add], [("x0", np.zeros(2, np.float32))], {}, opset=opset)
        found = onnx2torch().convert(model)(torch.zeros(2))
        assert found.tolist() == [1.5, 2.5]


def test_every_registered_operator_has_a_case() -> None:
    from onnx2torch.node_converters.registry import _CONVERTER_REGISTRY

    onnx2torch()
    ours = {
        description.operation_type
        for description, converter in _CONVERTER_REGISTRY.items()
        if converter.__module__.startswith("ts4s_core") and description.domain == ""
    }
    assert ours | set(SAME_MEANING) == {case.operator for case in CASES} | {"Constant"}


@pytest.mark.parametrize(
    ("operator", "attributes", "shapes"),
    [
        ("Attention", {}, [(1, 2, 3, 4)] * 3),
        ("Attention", {"is_causal": 1}, [(1, 2, 3, 4)] * 3),
        ("RotaryEmbedding", {}, [(1, 2, 3, 4), (1, 3, 2), (1, 3, 2)]),
        ("RMSNormalization", {}, [(2, 4), (4,)]),
        ("Gelu", {}, [(2, 3)]),
        ("Gelu", {"approximate": "tanh"}, [(2, 3)]),
        ("ReduceMean", {}, [(2, 3)]),
        ("ReduceL2", {}, [(2, 3)]),
    ],
)
def test_gradient_is_that_of_finite_differences(operator: str, attributes: dict[str, Any], shapes: list[Any]) -> None:
    opset = 18 if operator.startswith("Reduce") else 23
    module = onnx2torch().convert(model_of(Case(operator, (opset,), tuple(floats(*s) for s in shapes), attributes, 1, 9), opset))
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(module.double().eval(), inputs, check_undefined_grad=False)


@pytest.mark.parametrize(("attributes", "extra", "said"), [({"softcap": 1.0}, 0, "softcap"), ({}, 2, "past keys and values")])
def test_attention_of_text_generators_is_refused(attributes: dict[str, Any], extra: int, said: str) -> None:
    inputs = (Q, K, V, MASK[None, None], *(floats(2, 4, 1, 8) for _ in range(extra)))
    with pytest.raises(UnsupportedModelError, match=rf"node n \(operator Attention\).*{said}"):
        onnx2torch().convert(model_of(Case("Attention", (23,), inputs, attributes, 1, 9), 23))


def test_operator_without_converter_is_named() -> None:
    node = helper.make_node("Hardmax", ["input_ids"], ["y"], name="encoder/odd")
    value = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "g", [value], [out]), opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(UnsupportedModelError, match=r"node encoder/odd \(operator Hardmax\) at opset 17"):
        assemble(graph_of(model))
    graph = graph_of(model)
    graph.nodes = [Node("FastGelu", ["input_ids"], ["y"], {}, "com.microsoft", "odd")]
    with pytest.raises(UnsupportedModelError, match=r"operator com\.microsoft\.FastGelu"):
        assemble(graph)


def model_of(case: Case, opset: int) -> Any:
    names = [f"x{n}" for n in range(len(case.inputs))]
    node = helper.make_node(case.operator, names, [f"y{n}" for n in range(case.outputs)], name="n", **case.attributes)
    given = [(name, array) for n, (name, array) in enumerate(zip(names, case.inputs, strict=True)) if n < case.constants_from]
    constants = dict(list(zip(names, case.inputs, strict=True))[case.constants_from :])
    return made([node], given, constants, opset=opset, outputs=case.outputs)


def made(nodes: list[Any], given: list[tuple[str, Any]], constants: dict[str, Any], *, opset: int, outputs: int = 1) -> Any:
    inputs = [helper.make_tensor_value_info(name, KINDS[np.asarray(array).dtype.name], np.shape(array)) for name, array in given]
    initializers = [
        helper.make_tensor(name, KINDS[array.dtype.name], array.shape, array.reshape(-1).tolist())
        for name, array in constants.items()
    ]
    results = [helper.make_tensor_value_info(f"y{n}", TensorProto.UNDEFINED, None) for n in range(outputs)]
    for result in results:
        result.ClearField("type")
    graph = helper.make_graph(nodes, "g", inputs, results, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
