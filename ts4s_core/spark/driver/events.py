"""The events that the driver program sends: one class for each, one JSON object a line, discriminated by ``event``."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from ts4s_core.artifacts.facts import JsonObject, Record, problems_of
from ts4s_core.errors import SparkError, listed


class Beat(Record):
    """A heartbeat: the program lives."""

    event: Literal["beat"] = "beat"


class Logged(Record):
    """A log record."""

    event: Literal["log"] = "log"
    logger: str
    level: int
    message: str


class Progressed(Record):
    """How far a job is."""

    event: Literal["progress"] = "progress"
    id: int | None = None
    stage: str
    fields: JsonObject


class Outcome(Record):
    """How a job ended: with a result, or with an error as :func:`ts4s_core.errors.to_wire` gives it."""

    event: Literal["outcome"] = "outcome"
    id: int | None = None
    result: JsonObject | None = None
    error: dict[str, str] | None = None


class Died(Record):
    """The program is gone; put by the reading thread into the queue of every waiting job."""


Event: TypeAlias = Beat | Logged | Progressed | Outcome
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def as_line(event: Event) -> str:
    """An event as a line; a value that JSON cannot hold is written as text."""
    return json.dumps(event.model_dump(exclude_none=True), default=str) + "\n"


def event_of(line: bytes) -> Event:
    """The event in a line.

    Raises:
        SparkError: if it is not an event.
    """
    try:
        return _EVENT.validate_python(json.loads(line))
    except ValidationError as exc:
        raise SparkError(
            f"the Spark program sent a line that is not an event: expected beat, log, progress or outcome, "
            f"got one with {listed(problems_of(exc))}"
        ) from None
