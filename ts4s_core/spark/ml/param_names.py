"""Messages of the training engine, which knows settings, in the names of the Params."""

from __future__ import annotations

import re

from ts4s_core.settings import TrainSettings

#: Params whose setting has another name.
_OTHERS = {"max_steps": "maxIter", "timeout_s": "timeoutSeconds"}
_PARAMS = {f"train.{name}": _OTHERS.get(name, name) for name in TrainSettings.model_fields} | {"model.max_length": "max_length"}


def with_param_names(message: str) -> str:
    """The message with each setting by the name of its Param: ``train.logical_shards`` is ``logicalShards``."""

    def param(found: re.Match[str]) -> str:
        name = _PARAMS.get(found[0], found[0])
        return re.sub(r"_(\w)", lambda letter: letter[1].upper(), name) if found[0] in _PARAMS else name

    return re.sub(r"\b(train|model)\.[a-z_]+", param, message)
