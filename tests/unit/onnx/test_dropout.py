from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ts4s_core.errors import TrainingError
from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node
from ts4s_core.onnx.rewriting.dropout_sites import add_dropout
from ts4s_core.onnx.seeded_dropout import SeededDropout, dropout_sites, seed_dropout

ONES = torch.ones(64, 1000)


def two_sites(p: float = 0.1) -> nn.Sequential:
    return nn.Sequential(SeededDropout(p), nn.Identity(), SeededDropout(p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_zeros_and_mean(p: float) -> None:
    model = nn.Sequential(SeededDropout(p))
    seed_dropout(model, 0, 0, part=0)
    found = model(ONES)
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.01)
    assert float(found.mean()) == pytest.approx(1, abs=0.03)
    assert float(found.max()) == pytest.approx(1 / (1 - p), rel=1e-4)


def test_bits_hang_on_seed_step_part_and_site() -> None:
    model = two_sites(0.5)
    seen = set()
    for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        seed_dropout(model, numbers[0], numbers[1], part=numbers[2])
        seen |= {tuple(module(ONES)[0, :40].tolist()) for module in dropout_sites(model)}
    assert len(seen) == 8


def test_bits_do_not_hang_on_what_was_drawn_before() -> None:
    model = two_sites(0.5)
    seed_dropout(model, 3, 4, part=1)
    first = model(ONES)
    model(ONES)
    seed_dropout(model, 3, 9, part=0)
    model(ONES[:3])
    seed_dropout(model, 3, 4, part=1)
    assert torch.equal(model(ONES), first)


def test_second_call_of_a_site_draws_other_bits() -> None:
    model = nn.Sequential(SeededDropout(0.5))
    seed_dropout(model, 0, 0, part=0)
    assert not torch.equal(model(ONES), model(ONES))


def test_bits_are_the_same_in_another_process() -> None:
    code = (
        "import torch; from ts4s_core.onnx.seeded_dropout import SeededDropout, seed_dropout; "
        "m = SeededDropout(0.3); seed_dropout(m, 5, 6, part=7); print((m(torch.ones(1000)) == 0).nonzero().sum().item())"
    )
    model = SeededDropout(0.3)
    seed_dropout(model, 5, 6, part=7)
    mine = int((model(torch.ones(1000)) == 0).nonzero().sum())
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(other.stdout) == mine


def test_gradient_is_the_mask() -> None:
    model = nn.Sequential(SeededDropout(0.25))
    seed_dropout(model, 0, 0, part=0)
    data = torch.ones(5, 7, requires_grad=True)
    found = model(data)
    found.sum().backward()
    assert data.grad is not None
    assert torch.equal(data.grad, found.detach())


def test_eval_mode_and_zero_leave_the_data_alone() -> None:
    assert two_sites().eval()(ONES) is ONES
    assert SeededDropout(0.0)(ONES) is ONES


def test_train_mode_without_a_seed_is_an_error() -> None:
    with pytest.raises(TrainingError, match="Dropout in train mode: expected a seed"):
        two_sites()(ONES)


def linear(source: str, target: str, name: str) -> Node:
    return Node("Linear", [source], [target], {"weight": f"{name}.weight", "shape": [4, 4], "in_out": 0}, DOMAIN)


def embedding(source: str, target: str) -> Node:
    return Node("Embedding", [source], [target], {"weight": f"{target}.weight", "shape": [9, 4]}, DOMAIN)


def sites(graph: Graph) -> list[str]:
    return [node.inputs[0] for node in graph.nodes if node.op == "Dropout"]


def test_sites_of_an_encoder() -> None:
    norm = {"weight": "n.weight", "size": 4, "epsilon": 1e-12}
    nodes = [
        embedding("input_ids", "words"),
        embedding("input_ids", "places"),
        Node("Add", ["words", "places"], ["sum"]),
        Node("LayerNorm", ["sum"], ["normed"], dict(norm), DOMAIN),
        linear("normed", "query", "q"),
        Node("Attention", ["query", "query", "query"], ["mixed"], {"is_causal": 0}, DOMAIN),
        linear("mixed", "attended", "o"),
        Node("Add", ["attended", "normed"], ["first"]),
        Node("LayerNorm", ["first"], ["middle"], dict(norm), DOMAIN),
        linear("middle", "wide", "i"),
        Node("Gelu", ["wide"], ["bent"], {"approximate": "none"}, DOMAIN),
        linear("bent", "narrow", "f"),
        Node("Add", ["middle", "narrow"], ["last"]),
    ]
    graph = Graph(nodes, ["input_ids"], "last", 23)
    add_dropout(graph, hidden=0.1, attention=0.2)
    assert sites(graph) == ["normed", "attended", "narrow"]
    assert next(node for node in graph.nodes if node.op == "Attention").attributes["dropout"] == 0.2
    assert next(node for node in graph.nodes if node.outputs == ["query"]).inputs == [
        next(node for node in graph.nodes if node.inputs == ["normed"] and node.op == "Dropout").outputs[0]
    ]


def test_site_of_a_decoder_that_normalises_first_is_the_sum_of_its_embeddings() -> None:
    nodes = [
        embedding("input_ids", "words"),
        embedding("input_ids", "places"),
        Node("Add", ["words", "places"], ["sum"]),
        Node("LayerNorm", ["sum"], ["normed"], {"weight": "n.weight", "size": 4, "epsilon": 1e-5}, DOMAIN),
        linear("normed", "attended", "o"),
        Node("Add", ["attended", "sum"], ["last"]),
    ]
    graph = Graph(nodes, ["input_ids"], "last", 23)
    add_dropout(graph, hidden=0.1, attention=0.0)
    assert sites(graph) == ["sum", "attended"]


def test_no_dropout_changes_nothing() -> None:
    graph = Graph([embedding("input_ids", "words")], ["input_ids"], "words", 23)
    add_dropout(graph, hidden=0.0, attention=0.0)
    assert [node.op for node in graph.nodes] == ["Embedding"]
