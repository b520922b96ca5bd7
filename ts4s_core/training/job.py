"""The job that the driver sends to its workers, as JSON. No torch here: the driver makes jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args

from pydantic import SecretStr

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.settings import StorageSettings, TrainSettings

_SECRETS = tuple(name for name, found in StorageSettings.model_fields.items() if SecretStr in get_args(found.annotation))


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One attempt of a training step. What is sent to workers is :meth:`without_secrets`; the store's secrets, which ``repr``
    hides, reach them over the control channel.

    Attributes:
        name: the model's name in the registry.
        key: step key of the training step; checkpoints are sealed under it.
        dataset: reference of the dataset.
        model: reference of the model.
        output: the version that rank 0 writes the trained weights into.
        task: ``model.task``.
        class_weights: weight of each class, or None.
        train: the train settings.
        storage: the storage settings.
        resume: reference of the checkpoint to go on from, or None.
        attempt: 0 for the first.
        generation: number of this attempt among all that ever wrote checkpoints of the step, from 1: their order.
        held: leases and marks that all of this is written under.
        model_factory: ``module:function`` from a job and a model folder to a module.
        rows_factory: ``module:function`` from a job and a store to a row source.
        exchange: ``auto``, ``shared-memory`` or ``network``.
        ledger: folder for the ledgers of sample ids, or None.
        extra: anything that a custom factory needs.
    """

    name: str
    key: str
    dataset: str
    model: str
    output: str
    task: str
    train: dict[str, Any]
    storage: dict[str, Any] = field(repr=False)
    class_weights: list[float] | None = None
    resume: str | None = None
    attempt: int = 0
    generation: int = 1
    held: list[dict[str, Any]] = field(default_factory=list)
    model_factory: str = "ts4s_core.training.worker.factories:model_of_artifact"
    rows_factory: str = "ts4s_core.training.worker.dataset_rows:rows_of_artifact"
    exchange: str = "auto"
    ledger: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> TrainSettings:
        """The train settings, typed."""
        return TrainSettings(**self.train)

    @property
    def threads_per_worker(self) -> int:
        """Threads of each worker."""
        return self.settings.threads_per_worker

    @property
    def timeout_s(self) -> float:
        """Longest silence of a worker."""
        return self.settings.timeout_s

    @property
    def dataset_ref(self) -> ArtifactRef:
        """The dataset."""
        return ArtifactRef.parse(self.dataset)

    @property
    def model_ref(self) -> ArtifactRef:
        """The model."""
        return ArtifactRef.parse(self.model)

    @property
    def output_ref(self) -> ArtifactRef:
        """The version that is made."""
        return ArtifactRef.parse(self.output)

    @property
    def resume_ref(self) -> ArtifactRef | None:
        """The checkpoint to go on from."""
        return ArtifactRef.parse(self.resume) if self.resume else None

    def storage_settings(self) -> StorageSettings:
        """The storage settings, typed."""
        return StorageSettings(**self.storage)

    @property
    def secrets(self) -> dict[str, str]:
        """The store's secrets, by the name of their setting."""
        return {name: self.storage[name] for name in _SECRETS if self.storage.get(name) is not None}

    def without_secrets(self) -> TrainJob:
        """The job without the store's secrets: it may be logged and sent in the clear."""
        return replace(self, storage={name: value for name, value in self.storage.items() if name not in _SECRETS})

    def with_secrets(self, secrets: Mapping[str, str]) -> TrainJob:
        """The job that :meth:`without_secrets` and :attr:`secrets` were taken from."""
        return replace(self, storage={**self.storage, **secrets})

    def to_wire(self) -> str:
        """The job as one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_wire(cls, text: str) -> TrainJob:
        """The job that :meth:`to_wire` wrote."""
        values = json.loads(text)
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def storage_to_wire(settings: StorageSettings) -> dict[str, Any]:
    """Storage settings as JSON values with their secrets in clear."""
    values = settings.model_dump(mode="python")
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in values.items()}
