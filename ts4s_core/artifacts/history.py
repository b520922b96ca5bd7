"""Entries of the registry, and the aliases that follow from them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from ts4s_core.artifacts.versions.refs import ArtifactRef
from ts4s_core.errors import InputError, IntegrityError

REGISTRY = "registry"
CHAMPION = "champion"
KIND = "trained"
RETRACT = "retract"
ACTIONS = ("promote", "rollback", "refuse", RETRACT)
NUMBERED = re.compile(r"(\d{8})\.json\Z")


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        number: place in the sequence, from 1.
        name: the model.
        alias: the alias that was decided on.
        action: promote, rollback, refuse (the alias stays where it was), or retract (the entry before came too late).
        before: version that the alias pointed to, if any.
        to: version that was decided on; None takes the alias away.
        why: the reason given.
        who: user and host.
        when: ISO time, UTC.
        metrics: what the decision was made on.
        fence: number of the lease that it was made under; 0: under none.
    """

    number: int
    name: str
    alias: str
    action: str
    before: str | None
    to: str | None
    why: str
    who: str
    when: str
    metrics: dict[str, Any] = field(default_factory=dict)
    fence: int = 0

    def to_json(self) -> bytes:
        """The entry as it is stored."""
        record = asdict(self)
        record["from"] = record.pop("before")
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Entry:
        """Read a stored entry.

        Raises:
            IntegrityError: if the data are not a valid entry.
        """
        try:
            record = json.loads(data)
            record["before"] = record.pop("from")
            entry = cls(**record)
            texts = (entry.name, entry.alias, entry.action, entry.why, entry.who, entry.when)
            if not all(isinstance(text, str) for text in texts) or not isinstance(entry.metrics, dict):
                raise ValueError("a text or the metrics of another type")
            if not isinstance(entry.before, str | None) or not isinstance(entry.to, str | None):
                raise ValueError("a version that is no text")
            numbers = (entry.number, entry.fence)
            if any(type(number) is not int for number in numbers) or entry.number != number_of(path) or entry.fence < 0:
                raise ValueError("a number that cannot be")
            if entry.action not in ACTIONS:
                raise ValueError("an action that cannot be")
            if entry.to is not None:
                ArtifactRef(KIND, entry.name, entry.to)
        except (ValueError, TypeError, KeyError, AttributeError, InputError, RecursionError) as exc:
            raise IntegrityError(
                f"Registry entry {path} is damaged: expected an entry as `ts4s models promote` writes it, got {exc}"
            ) from exc
        return entry


@dataclass(frozen=True)
class History:
    """The entries of a name as they were read together, oldest first."""

    entries: tuple[Entry, ...]

    @property
    def number(self) -> int:
        """The number of the last entry; 0 without entries."""
        return self.entries[-1].number if self.entries else 0

    @property
    def effective(self) -> list[Entry]:
        """The entries without retracted ones."""
        kept: list[Entry] = []
        for entry in self.entries:
            if entry.action == RETRACT:
                del kept[-1:]
            else:
                kept.append(entry)
        return kept

    @property
    def aliases(self) -> dict[str, str]:
        """The current version of each alias."""
        current: dict[str, str | None] = {entry.alias: entry.to for entry in self.effective if entry.action != "refuse"}
        return {alias: version for alias, version in sorted(current.items()) if version is not None}

    def first_decision_on(self, version: str) -> Entry | None:
        """The first decision on a version."""
        return next((entry for entry in self.effective if entry.to == version), None)

    def targets_of(self, alias: str) -> list[str | None]:
        """The versions that an alias pointed to, oldest first; a rollback removes the last one."""
        targets: list[str | None] = []
        for entry in self.effective:
            if entry.alias != alias or entry.action == "refuse":
                continue
            if entry.action == "rollback":
                del targets[-1:]
            elif not targets or targets[-1] != entry.to:
                targets.append(entry.to)
        return targets

    @property
    def needed(self) -> set[str]:
        """Versions that an alias points to, or would after one rollback."""
        stacks = [self.targets_of(alias)[-2:] for alias in {entry.alias for entry in self.entries}]
        return {*self.aliases.values(), *(version for stack in stacks for version in stack if version is not None)}


def entry_path(name: str, number: int) -> str:
    """The path of an entry in the store."""
    return f"{REGISTRY}/{name}/{number:08d}.json"


def number_of(path: str) -> int:
    """The number in an entry's path; 0 if the path is not that of an entry."""
    found = NUMBERED.search(path)
    return int(found.group(1)) if found else 0
