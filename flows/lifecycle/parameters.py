"""Flow parameters: what Prefect's form shows of the settings, and the settings that they make.

A form shows the settings that its flow uses: the settings that people change first in groups of their own (``data``, ``model``,
``train``), the rest of these groups behind them (``more_data``, ...). Each group takes every setting of its name, shown in it
or not, so that parameters of deployments that were made before go on to work.

The flows leave the check of their parameters to the settings (``validate_parameters=False``), so that a wrong value is
refused with the message of the command line, whichever way it came.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, load_settings
from ts4s_core.settings.flows import TASK_SETTING, defaults_of, flow_settings, value_of
from ts4s_core.settings.groups import MAX_NAME_CHARS, NAME_PATTERN
from ts4s_core.settings.root import ENV_PREFIX, SECRET_FIELDS
from ts4s_core.task_kinds.registry import kinds_of_flow

MORE = "more_"
#: The help of a parameter that is not a group stands in the flow's docstring, where Prefect finds it.
ModelName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME_CHARS)]


def form_group(flow: str, parameter: str) -> type[Any]:
    """What the form of a flow shows of a group of settings, with the flow's defaults.

    Args:
        flow: the flow.
        parameter: the group's name for what people change first, or for a group that has no such settings; the name behind
            ``more_`` for the rest of a group.
    """
    group = parameter.removeprefix(MORE)
    shown = flow_settings(flow)
    first = shown.of_group(group, first=True)
    names = first if first and parameter == group else shown.of_group(group, first=False)
    whole: type[BaseModel] = Settings.model_fields[group].annotation  # type: ignore[assignment]
    fields: dict[str, Any] = {}
    for name in names:
        if (group, name) in SECRET_FIELDS:
            continue
        field = copy.copy(whole.model_fields[name])
        field.default = value_of(defaults_of(flow), f"{group}.{name}")
        fields[name] = (_annotation(flow, f"{group}.{name}", field.annotation), field)
    taken = sorted(set(whole.model_fields) - {field for place, field in SECRET_FIELDS if place == group})
    extra: dict[str, Any] = {"propertyNames": {"enum": taken}}
    config = ConfigDict(protected_namespaces=(), json_schema_extra=extra)
    title = f"{'More' if parameter != group else ''}{whole.__name__}"
    made: type[Any] = create_model(title, __config__=config, __doc__=whole.__doc__, **fields)
    return made


def _annotation(flow: str, name: str, whole: Any) -> Any:
    """A field's type; of the task those that the flow trains alone."""
    return Literal[tuple(kind.name for kind in kinds_of_flow(flow))] if name == TASK_SETTING else whole


def as_parameters(flow: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were given, as the form of a flow has them.

    Args:
        flow: the flow.
        given: values by group, and those of the root.
    """
    shown, parameters = flow_settings(flow), {}
    for group, values in given.items():
        first = set(shown.of_group(group, first=True)) if isinstance(values, Mapping) else set()
        if not first:
            parameters[group] = values
            continue
        parts = {group: {name: value for name, value in values.items() if name in first}}
        parts[f"{MORE}{group}"] = {name: value for name, value in values.items() if name not in first}
        parameters |= {parameter: part for parameter, part in parts.items() if part}
    return parameters


def settings_of(flow: str, parameters: Mapping[str, Any], **root: Any) -> Settings:
    """The settings that a flow's parameters make: group models as the form's defaults are, or JSON from the API.

    Raises:
        SettingsError: naming every refused value; or a secret among the parameters, which Prefect records.
    """
    given: dict[str, Any] = dict(root)
    for parameter, values in parameters.items():
        group = parameter.removeprefix(MORE)
        found = values.model_dump(exclude_unset=True) if isinstance(values, BaseModel) else values
        before = given.get(group, {})
        if not isinstance(found, Mapping) or not isinstance(before, Mapping):
            given[group] = found if before == {} else before  # refused with the others
            continue
        _refuse_secrets(group, found)
        # The form has a setting in one of the two groups. In the other it was put by whoever starts the run, as for a deployment
        # from before there were two: that counts over the deployment's own.
        first = flow_settings(flow).of_group(group, first=True)
        away = {name: value for name, value in found.items() if (name in first) != (parameter == group)}
        given[group] = {**found, **before, **away}
    return load_settings(given, flow=flow)


def _refuse_secrets(group: str, values: Mapping[str, Any]) -> None:
    for place, field in sorted(SECRET_FIELDS):
        if place == group and field in values:
            variable = f"{ENV_PREFIX}{group}__{field}".upper()
            raise SettingsError(
                f"{group}.{field} is a secret and not a flow parameter, because Prefect records those: set {variable} in the "
                "worker's environment, and change the secret"
            )
