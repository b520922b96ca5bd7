"""Facts of versions: typed, with a schema number, and readable where they were written before there was one."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, ClassVar, get_args

import pytest

import ts4s_core
from ts4s_core.artifacts.facts import Facts, Record
from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError, IntegrityError

REF = ArtifactRef("report", "demo", "20261121T041500.123456Z-1a2b3c4d")


class Weather(Facts):
    NOUN: ClassVar[str] = "weather report"
    REMEDY: ClassVar[str] = "Look out of the window"
    SCHEMA: ClassVar[int] = 2

    sky: str
    degrees: float
    wind: int | None = None


@dataclass(frozen=True)
class Found:
    facts: dict[str, Any] = field(default_factory=dict)
    ref: ArtifactRef = REF


def test_what_is_written_is_read_and_none_is_left_out():
    facts = Weather(sky="grey", degrees=7.5)
    assert facts.to_json() == {"schema": 2, "sky": "grey", "degrees": 7.5}
    assert facts.shown() == {"sky": "grey", "degrees": 7.5}
    assert Weather.of(Found(facts.to_json())) == facts


def test_facts_without_a_schema_number_and_with_more_fields_are_read():
    assert Weather.of(Found({"sky": "grey", "degrees": 7, "moon": "full"})) == Weather(sky="grey", degrees=7.0)


@pytest.mark.parametrize("schema", [3, "2", None])
def test_facts_of_a_later_schema_are_refused_in_one_line(schema):
    with pytest.raises(InputError) as caught:
        Weather.of(Found({"schema": schema, "sky": "grey", "degrees": 7}))
    assert str(caught.value) == (
        f"{REF} was written by a later ts4s: expected facts of schema 2 at most, got {schema!r}. Update ts4s"
    )


def test_missing_and_odd_facts_are_named_without_their_values():
    with pytest.raises(IntegrityError) as caught:
        Weather.of(Found({"degrees": "HUSH"}))
    assert str(caught.value) == (
        f"{REF} is no weather report: its manifest's facts have no sky, degrees: Input should be a valid number, unable to parse "
        "string as a number. Look out of the window"
    )


def records() -> list[type[Record]]:
    for module in pkgutil.walk_packages(ts4s_core.__path__, "ts4s_core."):
        if module.name.rpartition(".")[2] in {"facts", "messages"}:
            importlib.import_module(module.name)
    found: list[type[Record]] = [Record]
    for known in found:
        found.extend(known.__subclasses__())
    return [record for record in found if record.__module__.startswith("ts4s_core.")]


def test_what_may_be_none_need_not_be_there_because_it_is_left_out():
    bare = [
        f"{record.__name__}.{name}"
        for record in records()
        for name, known in record.model_fields.items()
        if NoneType in get_args(known.annotation) and known.is_required()
    ]
    assert len(records()) > 10
    assert bare == []


def test_every_kind_of_facts_says_what_it_is_and_what_to_do():
    for facts in records():
        if issubclass(facts, Facts) and facts is not Facts:
            assert facts.NOUN
            assert facts.REMEDY
