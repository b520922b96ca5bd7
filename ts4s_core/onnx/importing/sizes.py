"""Whether the tables of an imported graph have a row for every token and place: tried, since a file's description may be wrong.

Shapes: ``B`` texts, ``T`` tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ts4s_core.errors import SettingsError, SourceError, UnsupportedModelError
from ts4s_core.onnx.graph.graph import Graph
from ts4s_core.onnx.importing.imported_graph import ImportedGraph
from ts4s_core.onnx.importing.importer import assemble, put_tensors
from ts4s_core.onnx.rewriting.rewrite import rewrite


def token_rows(graph: Graph) -> int | None:
    """Rows of the table that a rewritten graph looks the tokens up in; None: it has no such table."""
    rows = [node.attributes["shape"][0] for node in graph.nodes if node.op == "Embedding" and node.inputs == ["input_ids"]]
    return int(rows[0]) if rows else None


def check_file(path: Path, *, largest_id: int, length: int, setting: str, source: str) -> None:
    """:func:`check_sizes` of an ONNX file made elsewhere.

    Raises:
        UnsupportedModelError: naming the node and operator that is not taken.
        SourceError, SettingsError: as there.
    """
    rewritten = rewrite(path, None)
    module = assemble(rewritten.graph)
    put_tensors(module, rewritten.tensors)
    module.fixed = rewritten.fixed
    check_sizes(module, rewritten.graph, largest_id=largest_id, length=length, setting=setting, source=source)


def check_sizes(
    module: ImportedGraph, graph: Graph, *, largest_id: int | None, length: int, setting: str = "model.max_length", source: str
) -> None:
    """Run a graph, its weights in it, on the largest token id and on a text of ``length`` tokens.

    Args:
        module: what ``assemble`` made of ``graph``.
        graph: rewritten.
        largest_id: of the tokenizer, special and added tokens included; None: only the length is tried.
        length: the longest text.
        setting: which says so.
        source: the graph, for the message.

    Raises:
        SourceError: the token table has no row for that id.
        SettingsError: the graph takes no text of that length.
        UnsupportedModelError: it does not run at all.
    """
    rows = token_rows(graph)
    if largest_id is not None and (largest_id >= rows if rows is not None else not _runs(module, largest_id, 1)):
        table = "a smaller token table" if rows is None else f"a token table of {rows} rows"
        raise SourceError(
            f"{source}: tokenizer and model do not fit together: expected token ids below the rows of the table, got "
            f"the largest id {largest_id} and {table}. Give the model's own tokenizer as model.tokenizer"
        )
    longest = longest_text(module, length)
    if longest < length:
        raise SettingsError(f"{setting} {length} is longer than {source} takes: expected at most {longest}. Lower it")


def longest_text(module: nn.Module, most: int) -> int:
    """The most tokens of a text, up to ``most``, on which a model of ids and mask runs."""
    fixed = getattr(module, "fixed", None)
    if fixed is not None:
        return min(most, int(fixed[1]))

    def takes(length: int) -> bool:
        # Places of some graphs count no padding, which may be either token.
        return all(_runs(module, token, length) for token in (0, 1))

    if takes(most):
        return most
    runs, fails = 0, most
    while fails - runs > 1:
        half = (runs + fails) // 2
        runs, fails = (half, fails) if takes(half) else (runs, half)
    return runs


def _runs(module: nn.Module, token: int, length: int) -> bool:
    ids = torch.full((1, length), token)
    module.eval()
    try:
        with torch.no_grad():
            module(ids, torch.ones_like(ids))
    except (IndexError, RuntimeError):  # what PyTorch raises for a row that is not in a table, and for tables of unlike length
        return False
    except Exception as exc:  # a converter's own refusal, of indices in floating point for one
        reason = str(exc).partition("\n")[0][:200]
        raise UnsupportedModelError(
            f"The imported graph cannot be run: {type(exc).__name__}: {reason}. Give the model's folder or "
            "hub id instead, or another family"
        ) from exc
    return True
