"""From a job to what is trained: the one assembly that workers and the plan's measuring processes share.

A job names what makes its module and its rows as ``module:function``. The defaults build the model of an artifact and read a
dataset artifact; anything else that gives a PyTorch module with ``forward(input_ids, attention_mask) -> logits`` can be
trained by the same engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import InputError
from ts4s_core.training.batches.read_ahead import RowSource
from ts4s_core.training.job import TrainJob
from ts4s_core.training.step.built_model import BuiltModel
from ts4s_core.training.step.objectives import objective_for
from ts4s_core.training.step.setup import TrainingSetup


def assemble(job: TrainJob, store: ArtifactStore) -> tuple[TrainingSetup, RowSource]:
    """The job's model, laid out for training, and its rows.

    Raises:
        InputError: if a factory cannot be imported, or is not a function.
        UnsupportedModelError: if nothing of the model can be trained.
    """
    rows: RowSource = resolve(job.rows_factory)(job, store)
    built: BuiltModel = resolve(job.model_factory)(job, store)
    objective = built.objective or objective_for(job.task, job.class_weights)
    return TrainingSetup.of(built, job.settings, objective=objective), rows


def resolve(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        InputError: if it cannot be imported, or is not a function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(f"Factory {name!r} cannot be used: expected module:function that can be imported, got {exc}") from exc
    if not callable(found):
        raise InputError(f"Factory {name!r} cannot be used: expected a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]
