"""The default model factory: the model of a job's ``model`` artifact."""

from __future__ import annotations

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.models.model_folder import ModelFolder
from ts4s_core.onnx.seeded_dropout import seed_dropout
from ts4s_core.training.job import TrainJob
from ts4s_core.training.step.built_model import BuiltModel


def model_of_artifact(job: TrainJob, store: ArtifactStore) -> BuiltModel:
    """The module of a ``model`` artifact."""
    return BuiltModel(ModelFolder(store.local(job.model_ref)).build(), seed_dropout)
