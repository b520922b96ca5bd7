"""The deployments of ``ts4s deploy`` and ``run-deployments`` as plain values; ``prefect.yaml`` says the same. No Prefect here.

Entrypoints are modules, so that a worker needs the installed package and nothing else.
"""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lifecycle.parameters import as_parameters
from ts4s_core.errors import SettingsError
from ts4s_core.host_user import expanded
from ts4s_core.settings import NAMED_FORMATS, Settings
from ts4s_core.settings.root import SECRET_FIELDS

TAG = "ts4s"
QUEUE, TRAINING_QUEUE = "default", "training"
#: The shortest that Prefect takes. A run that was silent for three is crashed, see ``flows.deployment.automations``.
HEARTBEAT_S = 30
#: What every run has in its environment, whoever started its worker.
WORKER_ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A folder `flows` where the worker was started is its user's, and not what the entrypoints name.
    "PYTHONSAFEPATH": "1",
}
RETRAIN_NAME, ON_DEMAND = "retrain/on-demand", "on-demand"
_GROUPS = ("model", "data", "train", "evaluate", "spark", "storage")


@dataclass(frozen=True)
class DeployOptions:
    """How the deployments run, beside the settings.

    Attributes:
        pool: name of the work pool; created as a pool of processes if it does not exist.
        cron: when the nightly retraining starts.
        timezone: the time zone of ``cron``.
        watch_every_s: seconds between looks at the data source; 0: no watch.
        limit: trainings at a time.
        notify_url: notified of failures and promotions; kept by Prefect as a secret.
    """

    pool: str = "ts4s"
    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    watch_every_s: int = 300
    limit: int = 4
    notify_url: str | None = None

    def __post_init__(self) -> None:
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise SettingsError(
                f"--timezone {self.timezone} is not valid: expected the name of a time zone such as Europe/Madrid or UTC"
            ) from exc
        if not _is_cron(self.cron):
            raise SettingsError(f"--cron {self.cron!r} is not valid: expected five fields such as '0 2 * * *'")
        if self.limit < 1:
            raise SettingsError(f"--limit {self.limit} is not valid: expected 1 or more")
        if self.watch_every_s and self.watch_every_s < 60:
            raise SettingsError(f"--watch-every {self.watch_every_s} is too often: expected 60 s or more, or 0 for no watch")


@dataclass(frozen=True)
class Deployment:
    """One deployment.

    Attributes:
        flow: the flow's name.
        name: the deployment's own.
        entrypoint: module and function.
        description: a sentence for the UI.
        queue: queue of the work pool.
        parameters: what is given to every run, as JSON values.
        cron: schedule, with its time zone.
        every_s: or an interval.
    """

    flow: str
    name: str
    entrypoint: str
    description: str
    queue: str = QUEUE
    parameters: dict[str, Any] = field(default_factory=dict)
    cron: tuple[str, str] | None = None
    every_s: int = 0

    @property
    def full_name(self) -> str:
        """``FLOW/NAME``, as Prefect finds it."""
        return f"{self.flow}/{self.name}"


def deployments_of(settings: Settings, options: DeployOptions) -> list[Deployment]:
    """Every deployment, with the settings that were given as parameters.

    Raises:
        SettingsError: if a local path in the settings cannot be one for a worker.
    """
    given = _given(settings)
    places: dict[str, Any] = {name: given[name] for name in ("spark", "storage") if name in given}
    retrain = as_parameters("retrain", {"name": settings.name, **({} if settings.reuse else {"reuse": False}), **given})
    found = [
        Deployment(
            "retrain",
            "nightly",
            "flows.retrain.retrain",
            "Retrain every night; ends at once where nothing changed.",
            TRAINING_QUEUE,
            retrain,
            cron=(options.cron, options.timezone),
        ),
        Deployment("retrain", ON_DEMAND, "flows.retrain.retrain", "Retrain now.", TRAINING_QUEUE, retrain),
        Deployment(
            "language-model",
            ON_DEMAND,
            "flows.language_model.language_model",
            "Train a language model on plain text.",
            TRAINING_QUEUE,
            {"name": f"{settings.name}-text", **places},
        ),
        Deployment(
            "predict",
            ON_DEMAND,
            "flows.predict.predict",
            "Predict every row of a source.",
            QUEUE,
            {"model": settings.name, **places},
        ),
    ]
    if options.watch_every_s and settings.data.source and settings.data.format not in NAMED_FORMATS:
        looked_at: dict[str, Any] = {name: given[name] for name in ("data", "storage") if name in given}
        found.append(
            Deployment(
                "watch",
                "data-source",
                "flows.watch.watch",
                f"Check the data source, and start {RETRAIN_NAME} where it changed.",
                QUEUE,
                as_parameters("watch", {"name": settings.name, "deployment": RETRAIN_NAME, **looked_at}),
                every_s=options.watch_every_s,
            )
        )
    return found


def _given(settings: Settings) -> dict[str, Any]:
    """What was set, group by group, without secrets; local paths made absolute, because a worker runs in a folder of its own."""
    given: dict[str, Any] = {}
    for name in _GROUPS:
        secrets = {field for group, field in SECRET_FIELDS if group == name}
        values = getattr(settings, name).model_dump(mode="json", exclude_unset=True, exclude=secrets)
        if values:
            given[name] = values
    storage = given.setdefault("storage", {})
    storage["uri"] = _absolute(settings.storage.uri)
    if settings.storage.cache_dir:
        storage["cache_dir"] = _absolute(settings.storage.cache_dir)
    if settings.data.source and settings.data.format not in NAMED_FORMATS:
        given["data"]["source"] = _absolute(settings.data.source)
    model = given.get("model", {})
    for setting in ("source", "tokenizer", "word_vectors"):
        value = model.get(setting)
        if isinstance(value, str) and expanded(value).exists():
            model[setting] = _absolute(value)
        elif isinstance(value, str) and value.startswith("config:") and Path(value[7:]).is_file():
            model[setting] = f"config:{_absolute(value[7:])}"
    return given


def _absolute(place: str) -> str:
    if "://" in place:
        return place
    return str(expanded(place).absolute())


def _is_cron(text: str) -> bool:
    """Five fields; Prefect checks what is in them."""
    return len(text.split()) == 5
