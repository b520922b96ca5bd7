"""Predictions as Arrow tables and as text.

Columns: ``id`` (where one was named), ``text``, then ``label`` (multi-label: a list), ``probabilities`` (a struct with one
field a class; above 1,000 classes a list in the order of ``labels.json``) or ``embedding``, then ``model_version`` and
``error``, which is null where all went well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ts4s_core.models.spec import ModelSpec
from ts4s_core.prediction.source_rows import TextRow

Floats = npt.NDArray[np.float32]
#: A struct of more fields than this helps nobody.
MOST_FIELDS = 1_000
NOT_FINITE = "the model gave a number that is not finite"


@dataclass(frozen=True)
class Layout:
    """What the columns are.

    Attributes:
        labels: names of the classes; empty for embeddings.
        multi_label: a row has any number of labels.
        size: values of an embedding.
        has_id: whether there is an id column.
        version: of the model.
    """

    labels: tuple[str, ...]
    multi_label: bool
    size: int
    has_id: bool
    version: str

    @property
    def schema(self) -> pa.Schema:
        """Of the table."""
        fields = [pa.field("id", pa.string())] if self.has_id else []
        fields.append(pa.field("text", pa.string()))
        if self.labels:
            fields.append(pa.field("label", pa.list_(pa.string()) if self.multi_label else pa.string()))
            fields.append(pa.field("probabilities", self.probabilities_type))
        else:
            fields.append(pa.field("embedding", pa.list_(pa.float32())))
        fields += [pa.field("model_version", pa.string()), pa.field("error", pa.string())]
        return pa.schema(fields, metadata={"ts4s.labels": json.dumps(self.labels, ensure_ascii=False)})

    @property
    def probabilities_type(self) -> pa.DataType:
        """Of the column ``probabilities``."""
        if len(self.labels) > MOST_FIELDS:
            return pa.list_(pa.float32())
        return pa.struct([(label, pa.float32()) for label in self.labels])

    def table(self, rows: Sequence[TextRow], values: Floats | None) -> tuple[pa.Table, int]:
        """The rows with their values, and how many of them are marked.

        Args:
            rows: in their order.
            values: ``(N, classes or size)`` of the rows that have a text; None: none has.
        """
        reasons, places = self._judged(rows, values)
        columns: dict[str, Any] = {"id": [row.id for row in rows]} if self.has_id else {}
        columns["text"] = [row.text for row in rows]
        columns |= self._answers(values, places)
        columns["model_version"] = pa.array([self.version], pa.string()).take(pa.array(np.zeros(len(rows), np.int32)))
        columns["error"] = reasons
        schema = self.schema
        return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema), len(rows) - int(
            (places >= 0).sum()
        )

    def _judged(self, rows: Sequence[TextRow], values: Floats | None) -> tuple[list[str | None], npt.NDArray[np.int64]]:
        """Why each row has no answer, and where its answer is in ``values`` (-1: nowhere)."""
        has_text = np.fromiter((row.reason is None for row in rows), np.bool_, len(rows))
        places = np.where(has_text, np.cumsum(has_text) - 1, -1)
        reasons = [row.reason for row in rows]
        if values is not None and not np.isfinite(values).all():
            broken = np.asarray(~np.isfinite(values).all(axis=1))
            for number in np.flatnonzero(has_text & broken[places]):
                reasons[number], places[number] = NOT_FINITE, -1
        return reasons, places

    def _answers(self, values: Floats | None, places: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The model's columns; null where a row has no answer."""
        width = len(self.labels) or self.size
        held = np.empty((0, width), np.float32) if values is None else values
        taken = pa.array(places, mask=places < 0)
        if not self.labels:
            return {"embedding": _lists(held).take(taken)}
        probabilities = probabilities_of(held, multi_label=self.multi_label)
        if self.multi_label:
            chosen: Any = [[self.labels[at] for at in np.flatnonzero(row >= 0.5)] for row in probabilities]
            labels = pa.array(chosen, pa.list_(pa.string()))
        else:
            best = held.argmax(axis=1) if len(held) else np.empty(0, np.int64)
            labels = pa.array(self.labels, pa.string()).take(pa.array(best))
        if len(self.labels) > MOST_FIELDS:
            shares: Any = _lists(probabilities)
        else:
            columns = [pa.array(np.ascontiguousarray(column)) for column in probabilities.T]
            shares = pa.StructArray.from_arrays(columns, fields=list(self.probabilities_type))
        return {"label": labels.take(taken), "probabilities": shares.take(taken)}


def probabilities_of(logits: Floats, *, multi_label: bool) -> Floats:
    """``(N, C)``: softmax over the classes, or a sigmoid for each."""
    wide = logits.astype(np.float64)
    if multi_label:
        return np.asarray(np.exp(-np.logaddexp(0.0, -wide)), np.float32)
    if not len(wide):
        return logits
    grown = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float32)


def _lists(values: Floats) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))


def vector_lines(table: pa.Table) -> Iterator[str]:
    """``key v1 v2 ...``: the text form of word vectors without a head line, as GloVe's; rows without a vector are left out.

    The key is the id, else the text; what would break the line in it (blanks) becomes ``_``.
    """
    keys = table.column("id" if "id" in table.column_names else "text").to_pylist()
    texts = table.column("text").to_pylist()
    for key, text, vector in zip(keys, texts, table.column("embedding").to_pylist(), strict=True):
        if vector is not None:
            word = re.sub(r"\s+", "_", str(text if key is None else key).strip())
            yield " ".join([word, *(f"{number:.6g}" for number in vector)])


def error_lines(table: pa.Table) -> Iterator[str]:
    """One JSON object for each row that is marked."""
    marked = table.filter(pc.is_valid(table.column("error")))
    names = [name for name in ("id", "text", "error") if name in table.column_names]
    for record in marked.select(names).to_pylist():
        yield json.dumps(record, ensure_ascii=False)


def label_layout(spec: ModelSpec, *, version: str, embeddings: bool, has_id: bool) -> Layout:
    """The columns of a classifier: its labels with their probabilities; or embeddings in their place."""
    return Layout(
        labels=() if embeddings else spec.labels,
        multi_label=spec.kind.labels == "many",
        size=spec.hidden_size,
        has_id=has_id,
        version=version,
    )
