"""Facts of a version: results of the step that made it, kept in its manifest and typed by kind.

Each kind has its own class beside the code that writes it (:class:`ts4s_core.training.facts.TrainedFacts`, ...). All go through
JSON here: field names are the names in the manifest, beside ``schema``, which manifests of before have not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError, IntegrityError, listed

JsonObject = dict[str, Any]
#: Name of the schema number in a manifest's facts.
SCHEMA = "schema"


class Described(Protocol):
    """An object with a version's facts: its manifest, or the result of the step that made or found it."""

    @property
    def ref(self) -> ArtifactRef:
        """The version."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Its facts as JSON values."""
        ...


class Record(BaseModel):
    """Typed JSON: frozen, and tolerant of fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> JsonObject:
        """As JSON values; a field that is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Facts(Record):
    """Facts of one kind of version.

    Attributes:
        NOUN: what a version of this kind is called in messages.
        SCHEMA: number of the newest form of these facts; a change that readers of before cannot read raises it.
        REMEDY: what to do about a version whose facts cannot be read.
    """

    NOUN: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str]

    @classmethod
    def of(cls, found: Described) -> Self:
        """The facts of a version.

        Raises:
            InputError: if a later ts4s wrote them.
            IntegrityError: if a fact is missing, or not of its type.
        """
        schema = found.facts.get(SCHEMA, 1)
        if not isinstance(schema, int) or schema > cls.SCHEMA:
            raise InputError(
                f"{found.ref} was written by a later ts4s: expected facts of schema {cls.SCHEMA} at most, got {schema!r}. "
                "Update ts4s"
            )
        try:
            return cls.model_validate(found.facts)
        except ValidationError as exc:
            problems = listed(problems_of(exc))
            raise IntegrityError(f"{found.ref} is no {cls.NOUN}: its manifest's facts have {problems}. {cls.REMEDY}") from exc

    def to_json(self) -> JsonObject:
        """As the manifest has them: with the schema number."""
        return {SCHEMA: self.SCHEMA, **self.shown()}

    def shown(self) -> JsonObject:
        """As a user sees them: without the schema number."""
        return super().to_json()


def shown(found: Described) -> JsonObject:
    """A version's facts as a user sees them, whatever its kind: without the schema number."""
    return {name: value for name, value in found.facts.items() if name != SCHEMA}


def problems_of(error: ValidationError) -> list[str]:
    """What is wrong with a record, a few words each; values are not shown, because one may be a secret."""
    return [
        f"no {_path(problem['loc'])}" if problem["type"] == "missing" else f"{_path(problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _path(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where)) or "the record"
