"""What the engine trains on what: a module and rows, each made by a ``module:function`` that the job names.

The defaults build the model of an artifact and read a dataset artifact. Anything else that gives a PyTorch module with
``forward(input_ids, attention_mask) -> logits`` can be trained by the same engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ts4s_core.artifacts.refs import ArtifactRef
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.data.dataset import Dataset
from ts4s_core.errors import InputError
from ts4s_core.onnx.weights import Array
from ts4s_core.training.batches import RowBlock
from ts4s_core.training.engine import Forward, SeedDropout
from ts4s_core.training.exchange import Exchange
from ts4s_core.training.job import TrainJob
from ts4s_core.training.objectives import Objective
from ts4s_core.training.optimiser import SlicedOptimiser
from ts4s_core.training.schedule import Rate, learning_rate
from ts4s_core.training.windows import RowSource

_COLUMNS = ("id", "label", "input_ids")


def no_dropout_of_ours(model: nn.Module, seed: int, step: int, *, part: int) -> None:
    """For models whose randomness is all PyTorch's own, which the engine seeds itself."""


@dataclass(frozen=True)
class BuiltModel:
    """A module that can be trained.

    Attributes:
        module: ``forward(*inputs)`` of what its rows bring (of texts ``input_ids (B, T), attention_mask (B, T)``) to what
            its objective takes; what requires a gradient is trained.
        seed_dropout: makes its dropout hang on (seed, step, part).
        names: stored name of each parameter where it differs from the module's own.
        buffers: what is stored beside the parameters, by stored name; tensors of the module.
        objective: what is minimised; None: that of the job's task.
        optimiser: makes the optimiser of a rank's slices; None: AdamW.
        rate: the learning rate of each step.
        forward: what to call instead of the module.
    """

    module: nn.Module
    seed_dropout: SeedDropout = no_dropout_of_ours
    names: Mapping[str, str] = field(default_factory=dict)
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    objective: Objective | None = None
    optimiser: Callable[[Exchange], SlicedOptimiser] | None = None
    rate: Rate = learning_rate
    forward: Forward | None = None

    def stored_name(self, parameter: str) -> str:
        """The name that a parameter of the module is stored under."""
        return self.names.get(parameter, parameter)

    def weights(self) -> dict[str, Array]:
        """All weights by stored name, frozen ones included, a tied one once; views."""
        weights = {self.stored_name(name): parameter.detach().numpy() for name, parameter in self.module.named_parameters()}
        return weights | {name: buffer.numpy() for name, buffer in self.buffers.items()}


def resolve(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        InputError: if there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(f"Factory {name!r} cannot be used: expected module:function that can be imported, got {exc}") from exc
    if not callable(found):
        raise InputError(f"Factory {name!r} cannot be used: expected a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def model_of_artifact(job: TrainJob, store: ArtifactStore) -> BuiltModel:
    """The module of a ``model`` artifact."""
    from ts4s_core.onnx.dropout import seed_dropout
    from ts4s_core.onnx.model import build_model

    return BuiltModel(build_model(store.local(ArtifactRef.parse(job.model))), seed_dropout)


def rows_of_artifact(job: TrainJob, store: ArtifactStore) -> RowSource:
    """The rows of a ``dataset`` artifact; of a language model's, its windows."""
    ref = ArtifactRef.parse(job.dataset)
    if store.manifest(ref).facts.get("task") == "language-model":
        from ts4s_core.data.text_dataset import TextDataset
        from ts4s_core.training.window_rows import WindowRows

        return WindowRows(TextDataset.open(store, ref))
    return DatasetRows(Dataset.open(store, ref))


class DatasetRows:
    """Rows of a dataset artifact, streamed by row group."""

    def __init__(self, dataset: Dataset) -> None:
        self.pad_id = dataset.pad_id
        self._dataset = dataset
        self._classes = len(dataset.labels) if dataset.task == "multi-label" else 0

    def rows_per_group(self, side: str) -> tuple[int, ...]:
        """Rows of each row group of a side."""
        return self._dataset.rows_per_group(side)

    def read(self, side: str, groups: Sequence[int]) -> RowBlock:
        """Some row groups, in the order given."""
        table = pa.concat_tables(self._dataset.read_row_groups(side, groups, _COLUMNS)).combine_chunks()
        tokens, offsets = _flat(table.column("input_ids"))
        labels = table.column("label")
        if self._classes:
            flat, starts = _flat(labels)
            hot = np.zeros((len(labels), self._classes), np.float32)
            hot[np.repeat(np.arange(len(labels)), np.diff(starts)), flat] = 1
            return RowBlock(tokens, offsets, hot, table.column("id").to_pylist())
        return RowBlock(tokens, offsets, labels.to_numpy().astype(np.int64), table.column("id").to_pylist())


def _flat(column: pa.ChunkedArray) -> tuple[Any, Any]:
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]]
    return values.astype(np.int32, copy=False), offsets - offsets[0]
