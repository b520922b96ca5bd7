"""What a job of the driver program is told and gives back, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ts4s_core.artifacts.leases.lease import Fence
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import SettingsError

Job = Mapping[str, Any]
Result = dict[str, Any]


def artifact_of(job: Job, role: str) -> ArtifactRef:
    """The artifact that a job names.

    Raises:
        SettingsError: it names none.
    """
    text = job.get(role)
    if not isinstance(text, str):
        raise SettingsError(f"job {job.get('job')}: expected {role} as KIND/NAME/VERSION, got {text!r}")
    return ArtifactRef.parse(text)


def fences_of(job: Job) -> tuple[Fence, ...]:
    """Leases and marks that whoever gave the job holds.

    Raises:
        SettingsError: something there is none.
    """
    try:
        return tuple(Fence.from_json(record) for record in job.get("held") or ())
    except (ValueError, KeyError, TypeError) as exc:
        raise SettingsError(f"job {job.get('job')}: expected held leases as name, token and number, got {exc}") from exc


def tokenizer_of(job: Job) -> dict[str, bytes] | None:
    """The tokenizer's files that travel with a job, in base64."""
    files = job.get("tokenizer")
    return None if files is None else {name: base64.b64decode(data) for name, data in files.items()}
