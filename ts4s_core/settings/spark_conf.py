"""Spark's configuration as it is given: pairs, a table of TOML, or the one string of an environment variable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: A comma ends a pair where a name and a = follow it: many values of Spark are lists with commas.
_NEXT_PAIR = re.compile(r",(?=\s*[A-Za-z][\w.-]*\s*=)")


def as_pairs(value: object) -> object:
    """``KEY=VALUE`` pairs; what is no table and no string is returned as it is.

    Args:
        value: a table, nested as dotted keys of TOML are or flat; or pairs separated by commas; or a JSON object.

    Raises:
        ValueError: if a string begins like a JSON object and is none.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as exc:
            raise ValueError(f'spark.conf is not a JSON object: {exc}. Give KEY=VALUE,KEY=VALUE or {{"KEY": "VALUE"}}') from None
    if isinstance(value, str):
        return tuple(pair.strip() for pair in _NEXT_PAIR.split(value.strip().strip(",")) if pair.strip())
    return tuple(_pairs(value)) if isinstance(value, Mapping) else value


def _pairs(table: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{above}{name}.")
            continue
        if isinstance(value, list):
            value = ",".join(map(str, value))
        yield f"{above}{name}={str(value).lower() if isinstance(value, bool) else value}"
