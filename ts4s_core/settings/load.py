"""Settings from flags, environment and a TOML file, strongest first; unknown names are refused in all three."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from ts4s_core.addresses import without_secrets
from ts4s_core.errors import SettingsError, listed
from ts4s_core.settings.flows import restricted_to, settings_that_apply
from ts4s_core.settings.root import ENV_PREFIX, SECRET_FIELDS, Settings

# Read by the program itself, not settings of a run.
#: Where failures and promotions are notified (``ts4s deploy``); it may hold a key, so it is not a flag.
NOTIFY_VARIABLE = "TS4S_NOTIFY_URL"
RESERVED_VARIABLES = frozenset({NOTIFY_VARIABLE})


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] | None = None,
    flow: str | None = None,
    groups: Collection[str] | None = None,
) -> Settings:
    """Read the settings of a run.

    Args:
        flags: nested values by group, e.g. ``{"name": "demo", "train": {"workers": "2"}}``; strings are converted.
        config: a TOML file with the groups as tables.
        profile: the table ``[profile.NAME]`` of that file, laid over its other tables.
        environ: the environment; default: this process's own.
        flow: what they are for, and
        groups: its groups: what :func:`ts4s_core.settings.flows.settings_that_apply` does not name is ignored; flow None:
            nothing is.

    Raises:
        SettingsError: naming every unknown name and every refused value at once.
    """
    environ = os.environ if environ is None else environ
    file_values = read_config(config, profile)
    unknown = unknown_variables(environ)
    if unknown:
        raise SettingsError(
            "; ".join(f"environment variable {name} is not a setting: see ts4s retrain --help" for name in unknown)
        )
    try:
        settings = _build(flags or {}, environ, file_values)
    except ValidationError as exc:
        raise SettingsError("; ".join(problems_of(exc))) from None
    if flow is not None:
        task = settings.model.task if "task" in settings.model.model_fields_set else None
        settings = restricted_to(settings, settings_that_apply(flow, task, groups=groups))
    problems = settings.conflicts()
    if problems:
        raise SettingsError("; ".join(problems))
    return settings


def _build(flags: Mapping[str, Any], environ: Mapping[str, str], file_values: dict[str, Any]) -> Settings:
    class Layered(Settings):
        @model_validator(mode="after")
        def _fields_fit_together(self) -> Self:
            return self  # checked later, when it is known which of them are used

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            *_others: Any,
            **_named: Any,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                init_settings,
                _EnvironmentSource(settings_cls, environ),
                _Given(settings_cls, file_values),
            )

    layered = Layered(**dict(flags))
    values = {name: getattr(layered, name) for name in Settings.model_fields}
    return Settings.model_construct(**values)


class _EnvironmentSource(EnvSettingsSource):
    """pydantic-settings' environment source over a given mapping."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self._environ.items() if value != ""}


class _Given(PydanticBaseSettingsSource):
    """Values that were read already."""

    def __init__(self, settings_cls: type[BaseSettings], values: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = values

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def read_config(config: Path | None, profile: str | None) -> dict[str, Any]:
    """The tables of a TOML file with one profile laid over them.

    Raises:
        SettingsError: if the file cannot be read or parsed, or has no such profile.
    """
    if config is None:
        if profile is not None:
            raise SettingsError(f"--profile {profile} needs --config FILE.toml, which holds the profiles")
        return {}
    try:
        values = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"--config {config} cannot be read: {exc}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"--config {config} is not valid TOML: {exc}") from exc
    profiles = values.pop("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(table, dict) for table in profiles.values()):
        raise SettingsError(f"--config {config}: profiles are tables, as in [profile.test.train]")
    if profile is None:
        return values
    if profile not in profiles:
        raise SettingsError(f"--profile {profile} is not in {config}: it has {listed(sorted(profiles)) or 'no profiles'}")
    return _overlaid(values, profiles[profile])


def _overlaid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _overlaid(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """``TS4S_*`` variables that name no setting (pydantic ignores a misspelt group)."""
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        members = getattr(field.annotation, "model_fields", {})
        known |= {f"{ENV_PREFIX}{name}__{member}".upper() for member in members}
    known |= RESERVED_VARIABLES
    return sorted(name for name in environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)


def problems_of(exc: ValidationError) -> list[str]:
    """One clause a refused value: which setting, what was expected, what was given."""
    problems = []
    for error in exc.errors(include_url=False):
        where = tuple(str(part) for part in error["loc"])
        name = ".".join(where) or "settings"
        if error["type"] == "extra_forbidden":
            problems.append(f"{name} is not a setting: see ts4s retrain --help")
        elif error["type"] == "value_error":
            problems.append(str(error["ctx"]["error"]) if "ctx" in error else error["msg"])
        else:
            given = "" if where[:2] in SECRET_FIELDS else f", got {without_secrets(repr(error['input'])):.80}"
            problems.append(f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}{given}")
    return problems
