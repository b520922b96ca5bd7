"""Attention masks, token types and positions: recognised by their values, and replaced by the smallest form of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import numpy as np

from ts4s_core.onnx.graph.graph import DOMAIN, Array, Graph, Node, run_part
from ts4s_core.onnx.graph.inputs import every_input
from ts4s_core.onnx.rewriting.constants import anchor_shapes

_LOG = logging.getLogger(__name__)
#: Additive masks hold this or less where a key is hidden; exp() of it is 0 in float32.
HIDDEN = -1e4


def simplify_masks(graph: Graph, *, fixed: tuple[int, int] | None) -> None:
    """Replace every mask that hides padding (and the future) by ``KeyMask`` of the input ``attention_mask``.

    Exporters write the same mask in many ways. Instead of their patterns, its values are compared on random inputs.

    Args:
        graph: changed in place.
        fixed: batch and length of a graph that was exported for one shape.
    """
    if "attention_mask" not in graph.inputs:
        return
    attentions = [node for node in graph.nodes if node.op == "Attention" and node.domain == DOMAIN and len(node.inputs) > 3]
    trial = copy.deepcopy(graph)
    anchor_shapes(trial, assume=True)
    replaced: dict[str, str] = {}
    made: dict[bool, str] = {}
    for node in attentions:
        mask = node.inputs[3]
        if mask not in replaced:
            causal = _is_causal(trial, mask, fixed)
            if causal is None:
                replaced[mask] = mask
                continue
            if causal not in made:
                made[causal] = graph.fresh("mask")
                graph.nodes.insert(0, Node("KeyMask", ["attention_mask"], [made[causal]], {"causal": int(causal)}, DOMAIN))
            replaced[mask] = made[causal]
        node.inputs[3] = replaced[mask]


def simplify_indices(graph: Graph, *, fixed: tuple[int, int] | None) -> None:
    """Replace indices of an Embedding that are always zero (token types), or count the tokens (positions).

    Args:
        graph: changed in place.
        fixed: batch and length of a graph that was exported for one shape.
    """
    embeddings = [node for node in graph.nodes if node.op == "Embedding" and node.domain == DOMAIN]
    for node in embeddings:
        value = node.inputs[0]
        if value in graph.inputs:
            continue
        found = _indices(graph, value, fixed)
        if found is not None:
            made = graph.fresh("indices")
            attributes = {"counting": int(found[0]), "offset": found[1]}
            graph.nodes.insert(0, Node("TokenIndices", ["input_ids"], [made], attributes, DOMAIN))
            node.inputs = [made]


def _indices(graph: Graph, value: str, fixed: tuple[int, int] | None) -> tuple[bool, int] | None:
    """Whether they count, and from what number; None if they depend on the tokens."""
    candidates: set[tuple[bool, int]] | None = None
    for feed in _feeds(fixed):
        try:
            found = graph.constants[value] if value in graph.constants else run_part(graph, value, feed)
        except Exception as exc:  # not computable on its own: the graph's own indices stay
            _LOG.debug("indices %s stay as they are: %s", value, exc)
            return None
        length = feed["input_ids"].shape[1]
        if found.dtype.kind not in "iu" or not found.size or found.shape[-1] != length or found.ndim > 2:
            return None
        first = int(found.flat[0])
        held = {
            (counting, first)
            for counting, row in ((True, first + np.arange(length)), (False, np.full(length, first)))
            if np.array_equal(found, np.broadcast_to(row, found.shape))
        }
        candidates = held if candidates is None else candidates & held
    return min(candidates, default=None) if candidates else None


def _is_causal(graph: Graph, mask: str, fixed: tuple[int, int] | None) -> bool | None:
    """False: it hides padding alone; True: the future too; None: something else."""
    part = graph.ancestors(mask)
    if any(value in graph.weights for node in part for value in node.inputs):
        return None
    held = {False: True, True: True}
    for feed in _feeds(fixed):
        try:
            found = run_part(graph, mask, feed)
        except Exception as exc:  # not computable on its own: the graph's own mask stays
            _LOG.debug("mask %s stays as it is: %s", mask, exc)
            return None
        allowed = found if found.dtype == np.bool_ else found > HIDDEN
        if found.dtype != np.bool_ and np.any(found[allowed] != 0):
            return None
        keys = feed["attention_mask"].astype(bool)[:, None, None, :]
        batch, length = feed["attention_mask"].shape
        future = keys & np.tril(np.ones((length, length), dtype=bool))
        for causal, expected in ((False, keys), (True, future)):
            try:
                shape = np.broadcast_shapes(allowed.shape, (batch, 1, length, length))
            except ValueError:
                return None
            held[causal] = held[causal] and bool(
                np.array_equal(np.broadcast_to(allowed, shape), np.broadcast_to(expected, shape))
            )
    return next((causal for causal, holds in held.items() if holds), None)


def _feeds(fixed: tuple[int, int] | None) -> Iterator[dict[str, Array]]:
    random = np.random.default_rng(20_261_121)
    for batch, length in [fixed] * 2 if fixed else [(2, 5), (3, 7), (1, 4)]:
        lengths = random.integers(1, length + 1, size=batch)
        attention_mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        # Small numbers: the padding token, whichever it is, must be among them.
        ids = random.integers(0, 6, size=(batch, length))
        yield dict(every_input(ids, attention_mask))
