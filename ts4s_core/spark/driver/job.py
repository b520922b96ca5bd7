"""A job of the driver program and its result, as JSON."""

from __future__ import annotations

import base64
from typing import TypeAlias

from pydantic import ValidationError

from ts4s_core.artifacts.facts import JsonObject, Record, problems_of
from ts4s_core.artifacts.leases.lease import Fence
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError, listed

Result: TypeAlias = JsonObject


class Job(Record):
    """One job. Artifacts are named by reference; each job reads some of these fields.

    Attributes:
        job: its name.
        id: number that its events carry; None for the one job under spark-submit.
        settings: of the run, without secrets.
        held: leases and usage marks that the client holds; None: it holds none, and the job marks the store as in use itself.
        onnx: whose tokenizer the data are prepared with.
        tokenizer: files of a text's tokenizer by name, in base64; None: one is trained on the text.
        dataset: what is trained, evaluated or compared on.
        model: what is trained.
        trained: what is evaluated, or predicts.
        champion: what the trained version is compared with.
        first: one of two versions that are compared.
        second: the other one.
        step_seconds: how long the earlier steps took.
        inputs: further inputs of the evaluation of this kind of task.
        options: of a prediction.
        items: of an echo.
    """

    job: str
    id: int | None = None
    settings: JsonObject = {}
    held: list[JsonObject] | None = None
    onnx: str | None = None
    tokenizer: dict[str, str] | None = None
    dataset: str | None = None
    model: str | None = None
    trained: str | None = None
    champion: str | None = None
    first: str | None = None
    second: str | None = None
    step_seconds: dict[str, float] | None = None
    inputs: JsonObject = {}
    options: dict[str, str | None] = {}
    items: list[str] = []

    @classmethod
    def of(cls, record: object) -> Job:
        """The job in a JSON value.

        Raises:
            SettingsError: if it is not a job.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as exc:
            name = record.get("job") if isinstance(record, dict) else None
            raise SettingsError(
                f"job {name!r}: expected a JSON object with the fields of a job, got one with {listed(problems_of(exc))}"
            ) from None


def artifact_of(job: Job, role: str) -> ArtifactRef:
    """The artifact that a job names.

    Raises:
        SettingsError: if it names none.
    """
    text = getattr(job, role)
    if text is None:
        raise SettingsError(f"job {job.job}: expected {role} as KIND/NAME/VERSION, got None")
    return ArtifactRef.parse(text)


def fences_of(job: Job) -> tuple[Fence, ...]:
    """Leases and usage marks that the client of the job holds.

    Raises:
        SettingsError: if a record is not a lease or a mark.
    """
    try:
        return tuple(Fence.from_json(record) for record in job.held or ())
    except (ValueError, KeyError, TypeError) as exc:
        raise SettingsError(f"job {job.job}: expected held leases as name, token and number, got {exc}") from exc


def tokenizer_of(job: Job) -> dict[str, bytes] | None:
    """The tokenizer's files that travel with a job, in base64."""
    return None if job.tokenizer is None else {name: base64.b64decode(data) for name, data in job.tokenizer.items()}
