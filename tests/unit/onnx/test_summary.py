from __future__ import annotations

from typing import Any

from ts4s_core.onnx.exporting.summary import summarise, summary_table
from ts4s_core.onnx.facts import ParameterCounts, Summary


def test_encoder(tiny: Any) -> None:
    module = tiny("bert")
    summary = summarise(module, module.config)
    block = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 64
    tables = 200 * 32 + 66 * 32 + 2 * 32
    assert (summary.family, summary.layers, summary.hidden, summary.heads) == ("bert", 2, 32, 4)
    assert summary.parameters == ParameterCounts(total=tables + 64 + 2 * block, embedding=tables, per_block=[block] * 2, other=64)
    matrices = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    forward = {"128": 2 * matrices + 4 * 2 * 128 * 32, "512": 2 * matrices + 4 * 2 * 512 * 32}
    assert summary.flops_per_token is not None
    assert summary.flops_per_token.forward == forward
    assert summary.flops_per_token.forward_backward == {name: 3 * count for name, count in forward.items()}


def test_language_model_counts_the_tied_output_matrix_once_as_weights_and_in_full_as_work(tiny: Any) -> None:
    module = tiny("gpt2")
    summary = summarise(module, module.config)
    assert summary.parameters.total == sum(parameter.numel() for parameter in module.parameters())
    assert summary.parameters.embedding == 200 * 32 + 64 * 32
    matrices = 2 * (12 * 32 * 32) + 200 * 32
    assert summary.flops_per_token is not None
    assert summary.flops_per_token.forward["128"] == 2 * matrices + 4 * 2 * 128 * 32


def test_other_names_of_the_sizes(tiny: Any) -> None:
    module = tiny("distilbert")
    summary = summarise(module, module.config)
    assert (summary.layers, summary.hidden, summary.heads, summary.vocabulary) == (2, 32, 4, 200)


def test_table_is_readable(tiny: Any) -> None:
    module = tiny("bert")
    text = summary_table(summarise(module, module.config))
    assert text.splitlines()[0].split() == ["family", "bert"]
    assert ["in", "each", "of", "2", "block(s)", "8.54", "k"] in [line.split() for line in text.splitlines()]
    assert "FLOPs per token, forward and backward, 512 tokens" in text
    assert len({len(line) for line in text.splitlines()}) == 1
    assert (
        summary_table(Summary(family="onnx", parameters=ParameterCounts(total=1_600))) == "family        onnx\nparameters  1.60 k"
    )
