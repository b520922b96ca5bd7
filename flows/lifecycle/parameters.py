"""Flow parameters: what Prefect's form shows of the settings, and the settings that they make.

The flows leave the check of their parameters to the settings (``validate_parameters=False``), so that a wrong value is
refused with the message of the command line, whichever way it came.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model

from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, load_settings
from ts4s_core.settings.groups import MAX_NAME_CHARS, NAME_PATTERN
from ts4s_core.settings.load import SECRET_FIELDS
from ts4s_core.settings.root import ENV_PREFIX

#: Help of a parameter that is no group stands in the flow's docstring, where Prefect looks for it.
ModelName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME_CHARS)]


def with_form_defaults(values: BaseModel) -> type[Any]:
    """The group of settings that these values are of, with them as its defaults, so that a form shows what will be used."""
    group = type(values)
    fields: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        value = getattr(values, name)
        if value != field.default:
            changed = copy.copy(field)
            changed.default = value
            fields[name] = (field.annotation, changed)
    return create_model(group.__name__, __base__=group, __doc__=group.__doc__, **fields)


def settings_of(groups: Mapping[str, Any], **root: Any) -> Settings:
    """The settings that a flow's parameters make: group models as the command line gives them, or JSON from the API.

    Raises:
        SettingsError: naming every refused value; or a secret among the parameters, which Prefect records.
    """
    given: dict[str, Any] = dict(root)
    for name, group in groups.items():
        given[name] = group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else group
        for place, field in sorted(SECRET_FIELDS):
            if place == name and isinstance(group, Mapping) and field in group:
                variable = f"{ENV_PREFIX}{name}__{field}".upper()
                raise SettingsError(
                    f"{name}.{field} is a secret and no flow parameter, because Prefect records those: set {variable} in the "
                    "worker's environment, and change the secret"
                )
    return load_settings(given)
