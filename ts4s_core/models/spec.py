"""``model.json``: what is put on and around an imported graph."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ts4s_core.errors import InputError, IntegrityError
from ts4s_core.task_kinds.kind import TaskKind
from ts4s_core.task_kinds.registry import kind_of

SPEC_FILE, GRAPH_FILE, WEIGHTS_FILE = "model.json", "graph.onnx", "model.safetensors"
#: Name of the head's module: its weights are ``classifier.*``.
HEAD = "classifier"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The content of ``model.json``.

    Attributes:
        task: what the logits are for.
        labels: names of the classes in the order of the logits; empty for a language model.
        hidden_size: size of the graph's output (the vocabulary's for a language model).
        dropout: probability at the hidden sites and in the head.
        attention_dropout: probability on attention weights.
        freeze_encoder: only the head is trained.
        lora_rank: rank of the adapters; 0: none.
        lora_alpha: their scale, times the rank.
        max_length: tokens a text is cut to.
        pad_id: token of the padding.
        vocab_size: rows of the token table.
        fixed_shape: batch and length of a graph that takes no other; None: any.
        parameters: names of all weights, in the graph's order, tied ones once.
        tied: other names of a weight, and the name it is kept under.
        network: sizes of a small network (:mod:`ts4s_core.models.small_networks`) in place of a graph; None: there is a graph.
    """

    task: str
    labels: tuple[str, ...]
    hidden_size: int
    dropout: float
    attention_dropout: float
    freeze_encoder: bool
    lora_rank: int
    lora_alpha: float
    max_length: int
    pad_id: int
    vocab_size: int
    fixed_shape: tuple[int, int] | None
    parameters: tuple[str, ...] = ()
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] | None = None

    @property
    def kind(self) -> TaskKind:
        """The kind of its task."""
        return kind_of(self.task)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "classes": self.classes}

    @classmethod
    def read(cls, folder: Path) -> ModelSpec:
        """Read ``model.json`` in a folder.

        Raises:
            IntegrityError: it is missing, or not what :meth:`to_json` gave.
        """
        try:
            record = json.loads((folder / SPEC_FILE).read_bytes())
            record.pop("classes")
            for name in ("labels", "parameters", "fixed_shape"):
                record[name] = None if record[name] is None else tuple(record[name])
            kind_of(record["task"])
            return cls(**record)
        except (InputError, OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise IntegrityError(
                f"Reading of {SPEC_FILE}: expected the description of a model, got {exc}. Make the model again"
            ) from exc
