"""Spark's configuration, and other options, as they are given: pairs, a table of TOML, or an environment variable's string."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ts4s_core.errors import SettingsError

DYNAMIC_ALLOCATION = "spark.dynamicAllocation.enabled"
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
            raise ValueError(
                f'options that begin with {{ are not a JSON object: {exc}. Give KEY=VALUE,KEY=VALUE or {{"KEY": "VALUE"}}'
            ) from None
    if isinstance(value, str):
        return tuple(pair.strip() for pair in _NEXT_PAIR.split(value.strip().strip(",")) if pair.strip())
    return tuple(_pairs(value)) if isinstance(value, Mapping) else value


def split_pairs(pairs: Iterable[str]) -> list[tuple[str, str]]:
    """Name and value of each ``KEY=VALUE``."""
    return [(name.strip(), value.strip()) for name, _, value in (pair.partition("=") for pair in pairs)]


def by_name(pairs: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` pairs as a table; the last of two with one name counts."""
    return dict(split_pairs(pairs))


def check_static_executors(dynamic: str, *, where: str) -> None:
    """Refuse to train where executors come and go: Spark starts no barrier stage there, and only says so when it is asked to.

    Args:
        dynamic: the value of ``spark.dynamicAllocation.enabled``; empty: Spark's own, which is off.
        where: who has it.

    Raises:
        SettingsError: with the way out.
    """
    if dynamic.lower() == "true":
        raise SettingsError(
            f"{where} has {DYNAMIC_ALLOCATION}=true, with which Spark starts no barrier stage, and so no training. Set it "
            "to false, and spark.executor.instances to the executors that the workers need; other steps and predictions take it"
        )


def _pairs(table: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{above}{name}.")
            continue
        if isinstance(value, list):
            value = ",".join(map(str, value))
        yield f"{above}{name}={str(value).lower() if isinstance(value, bool) else value}"
