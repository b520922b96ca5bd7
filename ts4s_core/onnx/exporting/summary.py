"""The summary of a model: layers, sizes, parameters and operations per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts4s_core.onnx.facts import ParameterCounts, Summary, TokenFlops

if TYPE_CHECKING:
    from torch import nn

LENGTHS = (128, 512)


def summarise(module: nn.Module, config: Any) -> Summary:
    """Layers, sizes, parameters and floating-point operations per token of a Hugging Face module.

    A multiplication and an addition count as two operations. With ``P`` the weights of all matrices that tokens are
    multiplied with (blocks and, in a language model, the output matrix; no embedding tables), ``L`` layers, ``A`` the
    width of all attention heads together and ``T`` tokens in the text::

        forward(T)           = 2 P + 4 L T A      (4 L T A: queries times keys, and weights times values)
        forward_backward(T)  = 3 forward(T)       (the backward pass computes two products for every one of the forward)

    Norms, activations and softmax are left out: they are below one per cent. Padding and causal masks do not lower the
    count, because the kernels compute masked positions too.

    Args:
        module: an encoder or a causal language model.
        config: its configuration.
    """
    from torch import nn

    owners = dict(module.named_modules())
    embedding = {
        id(parameter)
        for owner in owners.values()
        if isinstance(owner, nn.Embedding)
        for parameter in owner.parameters(recurse=False)
    }
    total = sum(parameter.numel() for parameter in module.parameters())
    in_tables = sum(parameter.numel() for parameter in module.parameters() if id(parameter) in embedding)
    matrices = sum(
        parameter.numel()
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.ndim == 2 and not isinstance(owners[name.rpartition(".")[0]], nn.Embedding)
    )
    blocks = max((owner for owner in owners.values() if isinstance(owner, nn.ModuleList)), key=len, default=nn.ModuleList())
    per_block = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    attention = heads * int(getattr(config, "head_dim", None) or width // heads)
    forward = {str(length): 2 * matrices + 4 * int(config.num_hidden_layers) * length * attention for length in LENGTHS}
    return Summary(
        family=str(config.model_type),
        layers=int(config.num_hidden_layers),
        hidden=width,
        heads=heads,
        vocabulary=int(config.vocab_size),
        parameters=ParameterCounts(
            total=total, embedding=in_tables, per_block=per_block, other=total - in_tables - sum(per_block)
        ),
        flops_per_token=TokenFlops(forward=forward, forward_backward={length: 3 * count for length, count in forward.items()}),
    )


def summary_table(summary: Summary) -> str:
    """A summary as lines of text, names to the left and values to the right."""
    parameters, flops = summary.parameters, summary.flops_per_token
    sizes = (("layers", summary.layers), ("hidden", summary.hidden), ("heads", summary.heads), ("vocabulary", summary.vocabulary))
    rows = [("family", summary.family)]
    rows += [(name, f"{size:,}") for name, size in sizes if size is not None]
    rows += [("parameters", _count(parameters.total))]
    if parameters.per_block:
        rows += [("  in embedding tables", _count(parameters.embedding or 0))]
        rows += [(f"  in each of {number} block(s)", _count(size)) for size, number in _tally(parameters.per_block)]
        rows += [("  elsewhere", _count(parameters.other or 0))]
    if flops is not None:
        ways = (("FLOPs per token, forward", flops.forward), ("FLOPs per token, forward and backward", flops.forward_backward))
        rows += [(f"{title}, {length} tokens", _count(count)) for title, of in ways for length, count in of.items()]
    left, right = max(len(name) for name, _ in rows), max(len(value) for _, value in rows)
    return "\n".join(f"{name:<{left}}  {value:>{right}}" for name, value in rows)


def _tally(sizes: list[int]) -> list[tuple[int, int]]:
    return [(size, sizes.count(size)) for size in dict.fromkeys(sizes)]


def _count(value: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:,.2f} {name}"
    return str(value)
