"""The native nodes of the domain ts4s, one graph of one node each, against plain PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import assemble, put_tensors
from ts4s_core.onnx.seeded_dropout import SeededDropout, seed_dropout

IDS = torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
TABLE = np.random.default_rng(1).standard_normal((7, 6)).astype(np.float32)


def build(nodes: list[Node], tensors: dict[str, Any] | None = None, **constants: Any) -> ImportedGraph:
    """A graph whose last node makes the output."""
    table = Node("Embedding", ["input_ids"], ["x"], {"weight": "table.weight", "shape": [7, 6]}, DOMAIN)
    graph = Graph([table, *nodes], ["input_ids", "attention_mask"], nodes[-1].outputs[0], 23, constants=dict(constants))
    graph.shapes = {"input_ids": ("b", "s"), "attention_mask": ("b", "s")}
    module = assemble(graph)
    put_tensors(module, {"table.weight": TABLE, **(tensors or {})})
    return module


def run(module: ImportedGraph) -> torch.Tensor:
    result: torch.Tensor = module.eval()(IDS, MASK)
    return result


X = torch.from_numpy(TABLE)[IDS]


@pytest.mark.parametrize("in_out", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(in_out: int, bias: bool) -> None:
    weight = np.random.default_rng(2).standard_normal((6, 3) if in_out else (3, 6)).astype(np.float32)
    attributes = {"weight": "a.dense.weight", "shape": list(weight.shape), "in_out": in_out}
    tensors = {"a.dense.weight": weight}
    if bias:
        attributes["bias"], tensors["a.dense.bias"] = "a.dense.bias", np.ones(3, np.float32)
    module = build([Node("Linear", ["x"], ["y"], attributes, DOMAIN)], tensors)
    matrix = torch.from_numpy(weight)
    expected = X @ (matrix if in_out else matrix.T) + (1 if bias else 0)
    torch.testing.assert_close(run(module), expected, rtol=1e-6, atol=1e-6)
    run(module).sum().backward()
    assert {name for name, value in module.named_parameters() if value.grad is not None} == {"table.weight", *tensors}


def test_embedding_and_token_indices() -> None:
    nodes = [
        Node("TokenIndices", ["input_ids"], ["i"], {"counting": 1, "offset": 2}, DOMAIN),
        Node("Embedding", ["i"], ["p"], {"weight": "positions.weight", "shape": [7, 6]}, DOMAIN),
        Node("TokenIndices", ["input_ids"], ["z"], {"counting": 0, "offset": 0}, DOMAIN),
        Node("Embedding", ["z"], ["t"], {"weight": "types.weight", "shape": [2, 6]}, DOMAIN),
        Node("Add", ["x", "p"], ["s"]),
        Node("Add", ["s", "t"], ["y"]),
    ]
    positions, types = TABLE[::-1].copy(), TABLE[:2].copy()
    module = build(nodes, {"positions.weight": positions, "types.weight": types})
    torch.testing.assert_close(run(module), X + torch.from_numpy(positions)[2:6] + torch.from_numpy(types)[0])


def test_layer_norm() -> None:
    weight, bias = TABLE[0], TABLE[1]
    attributes = {"weight": "ln.weight", "bias": "ln.bias", "size": 6, "epsilon": 1e-12}
    module = build([Node("LayerNorm", ["x"], ["y"], attributes, DOMAIN)], {"ln.weight": weight, "ln.bias": bias})
    torch.testing.assert_close(run(module), F.layer_norm(X, (6,), torch.from_numpy(weight), torch.from_numpy(bias), 1e-12))
    assert module.get_submodule("ln").epsilon == 1e-12  # not the float32 next to it, as ONNX keeps it


def test_weight_as_an_input_transposed_or_not() -> None:
    for transposed in (0, 1):
        attributes = {"weight": "odd.gamma", "shape": [6, 6], "transposed": transposed}
        nodes = [Node("Weight", [], ["w"], attributes, DOMAIN), Node("MatMul", ["x", "w"], ["y"])]
        module = build(nodes, {"odd.gamma": TABLE[:6]})
        matrix = torch.from_numpy(TABLE[:6])
        torch.testing.assert_close(run(module), X @ (matrix.T if transposed else matrix), rtol=1e-6, atol=1e-6)
        assert [name for name, _value in module.named_parameters()] == ["table.weight", "odd.gamma"]


def test_reshape_copies_dynamic_axes() -> None:
    module = build([Node("Reshape", ["x"], ["y"], {"shape": [-2, -3, 2, -1]}, DOMAIN)])
    assert run(module).shape == (2, 4, 2, 3)


@pytest.mark.parametrize("causal", [0, 1])
def test_key_mask(causal: int) -> None:
    module = build([Node("KeyMask", ["attention_mask"], ["m"], {"causal": causal}, DOMAIN), Node("Not", ["m"], ["y"])])
    expected = MASK.bool()[:, None, None, :]
    if causal:
        expected = expected & torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(run(module), ~expected)


@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_gelu(kind: str) -> None:
    module = build([Node("Gelu", ["x"], ["y"], {"approximate": kind}, DOMAIN)])
    torch.testing.assert_close(run(module), F.gelu(X, approximate=kind))


def test_float_cast_follows_the_model() -> None:
    module = build([Node("FloatCast", ["attention_mask"], ["y"], {}, DOMAIN)])
    assert run(module).dtype == torch.float32
    assert run(module.double()).dtype == torch.float64


def test_slice_to_cuts_a_table_to_the_tokens() -> None:
    nodes = [
        Node("Weight", [], ["w"], {"weight": "p.table", "shape": [1, 7, 6], "transposed": 0}, DOMAIN),
        Node("SliceTo", ["w", "input_ids"], ["c"], {"axis": 1}, DOMAIN),
        Node("Add", ["x", "c"], ["y"]),
    ]
    module = build(nodes, {"p.table": TABLE[None]})
    torch.testing.assert_close(run(module), X + torch.from_numpy(TABLE)[:4])


def test_operators_that_onnx2torch_has_otherwise() -> None:
    """Running sums forwards, Flatten of a vector, Slice, Reshape by a computed shape with allowzero."""
    one = np.array(1, dtype=np.int64)
    module = build([Node("CumSum", ["attention_mask", "one"], ["y"], {}, DOMAIN)], one=one)
    assert run(module).tolist() == [[1, 2, 3, 4], [1, 2, 2, 2]]
    attributes = {"exclusive": 1, "reverse": 1}
    module = build([Node("CumSum", ["attention_mask", "one"], ["y"], attributes, DOMAIN)], one=one)
    assert run(module).tolist() == [[3, 2, 1, 0], [1, 0, 0, 0]]
    module = build(
        [Node("Slice", ["attention_mask", "from", "to", "axis", "step"], ["y"], {}, DOMAIN)],
        **{"from": np.array([0]), "to": np.array([2**62]), "axis": np.array([1]), "step": np.array([2])},
    )
    assert run(module).tolist() == [[1, 1], [1, 0]]
    module = build([Node("Shape", ["x"], ["v"]), Node("Flatten", ["v"], ["y"], {"axis": 1}, DOMAIN)])
    assert run(module).tolist() == [[2], [4], [6]]
    module = build([Node("DynamicReshape", ["x", "shape"], ["y"], {"allowzero": 0}, DOMAIN)], shape=np.array([0, -1]))
    assert run(module).shape == (2, 24)


def attention_nodes(**attributes: Any) -> list[Node]:
    heads = [
        Node("Reshape", ["x"], ["h"], {"shape": [-2, -3, 2, 3]}, DOMAIN),
        Node("Transpose", ["h"], ["q"], {"perm": [0, 2, 1, 3]}),
    ]
    mask = Node("KeyMask", ["attention_mask"], ["m"], {"causal": 0}, DOMAIN)
    return [*heads, mask, Node("Attention", ["q", "q", "q", "m"], ["y"], {"is_causal": 0, **attributes}, DOMAIN)]


def test_attention_in_eval_mode_is_the_fused_kernel_with_or_without_dropout() -> None:
    query = X.unflatten(-1, (2, 3)).transpose(1, 2)
    expected = F.scaled_dot_product_attention(query, query, query, attn_mask=MASK.bool()[:, None, None, :])
    assert torch.equal(run(build(attention_nodes())), expected)
    assert torch.equal(run(build(attention_nodes(dropout=0.5))), expected)
    scaled = F.scaled_dot_product_attention(query, query, query, attn_mask=MASK.bool()[:, None, None, :], scale=0.25)
    assert torch.equal(run(build(attention_nodes(scale=0.25))), scaled)


def test_attention_dropout_is_on_the_weights() -> None:
    module = build(attention_nodes(dropout=0.5)).train()
    dropout = next(m for m in module.modules() if isinstance(m, SeededDropout))
    seed_dropout(module, 1, 2, part=3)
    found = module(IDS, MASK)
    seed_dropout(module, 1, 2, part=3)
    query = X.unflatten(-1, (2, 3)).transpose(1, 2)
    scores = (query @ query.transpose(-1, -2) / 3**0.5).masked_fill(~MASK.bool()[:, None, None, :], float("-inf"))
    torch.testing.assert_close(found, dropout(scores.softmax(-1)) @ query)
    assert not torch.allclose(found, run(module))


def test_two_calls_with_the_same_weights_are_one_module() -> None:
    attributes = {"weight": "a.weight", "shape": [6, 6], "in_out": 0}
    nodes = [Node("Linear", ["x"], ["z"], dict(attributes), DOMAIN), Node("Linear", ["z"], ["y"], dict(attributes), DOMAIN)]
    module = build(nodes, {"a.weight": TABLE[:6]})
    matrix = torch.from_numpy(TABLE[:6])
    torch.testing.assert_close(run(module), X @ matrix.T @ matrix.T, rtol=1e-5, atol=1e-5)
    assert sum(type(m).__name__ == "Linear" for m in module.modules()) == 1


def test_a_table_that_is_an_output_matrix_too_is_one_parameter() -> None:
    attributes = {"weight": "table.weight", "shape": [7, 6], "in_out": 0}
    module = build([Node("Linear", ["x"], ["y"], attributes, DOMAIN)])
    torch.testing.assert_close(run(module), X @ torch.from_numpy(TABLE).T)
    assert [name for name, _value in module.named_parameters()] == ["table.weight"]
    run(module).sum().backward()
    double = module.double()
    assert sum(p.numel() for p in double.parameters()) == 42
    assert run(double).dtype == torch.float64
