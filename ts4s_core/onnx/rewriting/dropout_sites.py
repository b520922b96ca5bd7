"""Dropout, which an export in eval mode leaves out, put back where encoders and decoders have it.

Sites: behind the sum of the embeddings (behind its LayerNorm, where it has one of its own), behind every Linear whose
result is added to the residual stream (the attention's output and the feed-forward's), and, inside ``Attention``, on the
attention weights.
"""

from __future__ import annotations

from ts4s_core.onnx.graph.graph import DOMAIN, Graph, Node


def add_dropout(graph: Graph, *, hidden: float, attention: float) -> None:
    """Insert dropout with these probabilities; 0 inserts nothing."""
    if attention:
        for node in graph.nodes:
            if node.op == "Attention" and node.domain == DOMAIN:
                node.attributes["dropout"] = attention
    if not hidden:
        return
    sites = _after_embeddings(graph) + _before_residuals(graph)
    for value in sites:
        _insert(graph, value, hidden)


def _insert(graph: Graph, value: str, p: float) -> None:
    dropped = graph.fresh("dropped")
    position = next(index for index, node in enumerate(graph.nodes) if value in node.outputs)
    graph.redirect(value, dropped)
    graph.nodes.insert(position + 1, Node("Dropout", [value], [dropped], {"p": p}, DOMAIN))


def _after_embeddings(graph: Graph) -> list[str]:
    """The last value that is made of embeddings alone: their sum, or the LayerNorm that alone reads it."""
    consumers = graph.consumers()
    embedded: set[str] = set()
    last: Node | None = None
    for node in graph.nodes:
        tables = node.op in ("Embedding", "Weight", "SliceTo") and node.domain == DOMAIN
        # Integer paths to an Embedding (positions) never enter `embedded`.
        summed = node.op == "Add" and not node.domain and any(value in embedded for value in node.inputs)
        if tables or (summed and all(value in embedded for value in node.inputs)):
            embedded.add(node.outputs[0])
            last = node if node.op in ("Embedding", "Add") else last
    if last is None:
        return []
    readers = consumers.get(last.outputs[0], [])
    if len(readers) == 1 and readers[0].op == "LayerNorm":
        return [readers[0].outputs[0]]
    return [last.outputs[0]]


def _before_residuals(graph: Graph) -> list[str]:
    producers, consumers = graph.producers(), graph.consumers()
    found = []
    for node in graph.nodes:
        if node.op != "Linear" or node.domain != DOMAIN:
            continue
        readers = consumers.get(node.outputs[0], [])
        if len(readers) != 1 or readers[0].op != "Add" or readers[0].domain:
            continue
        other = next((value for value in readers[0].inputs if value != node.outputs[0]), None)
        maker = producers.get(other) if other is not None else None
        if maker is not None and not (maker.op == "Weight" and maker.domain == DOMAIN):
            found.append(node.outputs[0])
    return found
