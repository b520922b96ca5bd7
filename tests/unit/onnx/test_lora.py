from __future__ import annotations

import pytest
import torch

from ts4s_core.errors import UnsupportedModelError
from ts4s_core.models.lora import add_lora, initial_lora, merge_lora, projections
from ts4s_core.onnx.converters.native import Linear
from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import assemble, put_tensors

IDS = torch.tensor([[1, 2, 3]])


def graph(*, in_out: int = 0) -> ImportedGraph:
    def linear(source: str, target: str, role: str) -> Node:
        attributes = {"weight": f"{target}.weight", "shape": [4, 4], "in_out": in_out, "role": role}
        return Node("Linear", [source], [target], attributes, DOMAIN)

    heads = [Node("Reshape", [name], [f"{name}4"], {"shape": [-2, -3, 1, 4]}, DOMAIN) for name in ("query", "key", "value")]
    nodes = [
        Node("Embedding", ["input_ids"], ["x"], {"weight": "table.weight", "shape": [9, 4]}, DOMAIN),
        linear("x", "query", "query"),
        linear("x", "key", "key"),
        linear("x", "value", "value"),
        *heads,
        Node("Attention", ["query4", "key4", "value4"], ["y"], {"is_causal": 0}, DOMAIN),
    ]
    module = assemble(Graph(nodes, ["input_ids"], "y", 23, shapes={"input_ids": ("b", "s")}))
    generator = torch.Generator().manual_seed(0)
    put_tensors(module, {name: torch.randn(p.shape, generator=generator) for name, p in module.named_parameters()})
    return module


def test_targets_are_query_and_value() -> None:
    module = graph()
    assert sorted(projections(module)) == ["query", "value"]
    add_lora(module, rank=2, alpha=8)
    added = [name for name, _value in module.named_parameters() if ".lora." in name]
    assert added == ["query.lora.A", "query.lora.B", "value.lora.A", "value.lora.B"]
    assert module.get_parameter("query.lora.A").shape == (2, 4)
    assert module.get_parameter("query.lora.B").shape == (4, 2)


def test_nothing_changes_at_first_and_only_b_has_a_gradient() -> None:
    module = graph()
    before = module(IDS, IDS)
    add_lora(module, rank=2, alpha=8)
    tensors = initial_lora(module, seed=3)
    put_tensors(module, tensors)
    after = module(IDS, IDS)
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert module.get_parameter("query.lora.A").grad.abs().sum() == 0  # type: ignore[union-attr]
    assert module.get_parameter("value.lora.B").grad.abs().sum() > 0  # type: ignore[union-attr]
    assert not tensors["query.lora.B"].any()
    assert tensors["query.lora.A"].any()
    assert (tensors["query.lora.A"] != tensors["value.lora.A"]).any()
    assert (initial_lora(module, seed=3)["query.lora.A"] == tensors["query.lora.A"]).all()
    assert (initial_lora(module, seed=4)["query.lora.A"] != tensors["query.lora.A"]).any()


@pytest.mark.parametrize("in_out", [0, 1])
def test_the_update_is_scaled_and_can_be_merged(in_out: int) -> None:
    module = graph(in_out=in_out)
    add_lora(module, rank=2, alpha=8)
    generator = torch.Generator().manual_seed(1)
    put_tensors(module, {n: torch.randn(p.shape, generator=generator) for n, p in module.named_parameters() if ".lora." in n})
    query = module.get_submodule("query")
    assert isinstance(query, Linear)
    assert query.lora is not None
    data = torch.randn(5, 4, generator=generator)
    matrix = query.weight if in_out else query.weight.T
    expected = data @ matrix + (data @ query.lora.A.T @ query.lora.B.T) * 4
    torch.testing.assert_close(query(data), expected, rtol=1e-5, atol=1e-5)
    whole = module(IDS, IDS)
    merge_lora(module)
    assert not [name for name, _value in module.named_parameters() if ".lora." in name]
    torch.testing.assert_close(module(IDS, IDS), whole, rtol=1e-5, atol=1e-5)


def test_graph_without_attention_is_refused() -> None:
    nodes = [Node("Embedding", ["input_ids"], ["x"], {"weight": "table.weight", "shape": [9, 4]}, DOMAIN)]
    module = assemble(Graph(nodes, ["input_ids"], "x", 23, shapes={"input_ids": ("b", "s")}))
    with pytest.raises(UnsupportedModelError, match=r"LoRA of rank 2 .* got none\. Use model\.lora_rank 0"):
        add_lora(module, rank=2, alpha=8)
