"""The registry: which version of a model an alias points to, as a sequence of entries that are never changed."""

from __future__ import annotations

import datetime
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef, check_name
from ts4s_core.errors import ConflictError, InputError, IntegrityError, NotFoundError, listed
from ts4s_core.host_user import user_name

REGISTRY = "registry"
CHAMPION = "champion"
KIND = "trained"
ACTIONS = ("promote", "rollback", "refuse")
_NUMBER = re.compile(r"(\d{8})\.json\Z")


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        number: place in the sequence, from 1.
        name: the model.
        alias: the alias that was decided on.
        action: promote, rollback, or refuse (the alias stays where it was).
        before: version that the alias pointed to, if any.
        to: version that was decided on; None takes the alias away.
        why: the reason given.
        who: user and host.
        when: ISO time, UTC.
        metrics: what the decision was made on.
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

    def to_json(self) -> bytes:
        """The entry as it is stored."""
        record = asdict(self)
        record["from"] = record.pop("before")
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Entry:
        """Read a stored entry.

        Raises:
            IntegrityError: if it is none.
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
            if isinstance(entry.number, bool) or entry.number != _number(path) or entry.action not in ACTIONS:
                raise ValueError("number or action that cannot be")
            if entry.to is not None:
                ArtifactRef(KIND, entry.name, entry.to)
        except (ValueError, TypeError, KeyError, AttributeError, InputError, RecursionError) as exc:
            raise IntegrityError(
                f"Registry entry {path} is damaged: expected an entry as `ts4s models promote` writes it, got {exc}"
            ) from exc
        return entry


class Registry:
    """Aliases of trained models. An alias is what its highest entry says."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._storage = store.storage

    def names(self) -> list[str]:
        """Every name that has entries or a trained version."""
        return sorted({*self._storage.folders(REGISTRY), *self._store.names(KIND)})

    def entries(self, name: str) -> list[Entry]:
        """The history of a name, oldest first."""
        return [self._entry(path) for path in self._paths(name)]

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version, as it stands."""
        current: dict[str, str | None] = {entry.alias: entry.to for entry in self.entries(name) if entry.action != "refuse"}
        return {alias: version for alias, version in sorted(current.items()) if version is not None}

    def alias(self, name: str, alias: str = CHAMPION) -> str | None:
        """The version that an alias points to, if any."""
        return self._standing(self._paths(name), check_name(alias))

    def decide(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        to: str | None,
        why: str,
        who: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        promoted: bool = True,
        action: str | None = None,
    ) -> Entry:
        """Append a decision.

        Args:
            name: the model.
            alias: what is to point to the version.
            to: the version; None takes the alias away.
            why: the reason, for people.
            who: default: this user and host.
            metrics: what the decision was made on.
            promoted: False records that the version was refused; the alias stays.
            action: default: ``promote`` or ``refuse``.

        Raises:
            NotFoundError: if there is no such version.
        """
        check_name(alias)
        if to is not None and not self._store.sealed(ArtifactRef(KIND, name, to)):
            self._store.manifest(ArtifactRef(KIND, name, to))  # says which versions there are
        who = f"{user_name()}@{socket.gethostname()}" if who is None else who
        paths = self._paths(name)
        while True:
            entry = Entry(
                number=1 + (_number(paths[-1]) if paths else 0),
                name=name,
                alias=alias,
                action=action or ("promote" if promoted else "refuse"),
                before=self._standing(paths, alias),
                to=to,
                why=why,
                who=who,
                when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                metrics=dict(metrics or {}),
            )
            path = f"{REGISTRY}/{name}/{entry.number:08d}.json"
            try:
                self._storage.create(path, entry.to_json())
            except ConflictError:
                paths.append(path)  # somebody else took that number: heed what they decided, and take the next
                continue
            return entry

    def rollback(self, name: str, *, alias: str = CHAMPION, why: str, who: str | None = None) -> Entry:
        """Point an alias back to what it was before; again, to what it was before that.

        Raises:
            NotFoundError: if there is nothing to go back to.
        """
        stood = _stood(self.entries(name), alias)
        if len(stood) < 2 or stood[-2] is None:
            raise NotFoundError(
                f"Rollback of {name}@{alias} is not possible: it has no earlier version. Use `ts4s models promote`"
            )
        return self.decide(name, alias=alias, to=stood[-2], why=why, who=who, action="rollback")

    def resolve(self, text: str) -> ArtifactRef:
        """The trained version that ``NAME``, ``NAME@ALIAS`` or ``NAME@VERSION`` means; plain NAME: its champion, else the newest.

        Raises:
            NotFoundError: if there is none, saying what there is.
        """
        name, at, wanted = text.partition("@")
        check_name(name)
        if not at:
            champion = self.alias(name)
            newest = None if champion else self._store.newest(KIND, name)
            if champion:
                return self._sealed(ArtifactRef(KIND, name, champion))
            if newest is None:
                raise NotFoundError(f"No model {name} in {self._storage.uri}: it has {listed(self.names()) or 'no models'}")
            return newest
        if re.match(r"\d{8}T", wanted):
            return self._sealed(ArtifactRef(KIND, name, wanted))
        version = self.alias(name, wanted)
        if version is None:
            raise NotFoundError(f"No alias {wanted} of model {name}: it has {listed(self.aliases(name)) or 'no aliases'}")
        return self._sealed(ArtifactRef(KIND, name, version))

    def needed(self, name: str) -> set[str]:
        """Versions that an alias points to, or would after one rollback."""
        entries = self.entries(name)
        stacks = [_stood(entries, alias) for alias in {entry.alias for entry in entries}]
        return {version for stack in stacks for version in stack[-2:] if version is not None}

    def _sealed(self, ref: ArtifactRef) -> ArtifactRef:
        return self._store.manifest(ref).ref

    def _paths(self, name: str) -> list[str]:
        found = self._storage.list(f"{REGISTRY}/{check_name(name)}")
        return sorted(entry.path for entry in found if _NUMBER.search(entry.path))

    def _entry(self, path: str) -> Entry:
        return Entry.from_json(self._storage.read_bytes(path), path)

    def _standing(self, paths: list[str], alias: str) -> str | None:
        for path in reversed(paths):
            entry = self._entry(path)
            if entry.alias == alias and entry.action != "refuse":
                return entry.to
        return None


def _stood(entries: list[Entry], alias: str) -> list[str | None]:
    """Where an alias stood, oldest first; a rollback takes the last place away."""
    stood: list[str | None] = []
    for entry in entries:
        if entry.alias != alias or entry.action == "refuse":
            continue
        if entry.action == "rollback":
            del stood[-1:]
        elif not stood or stood[-1] != entry.to:
            stood.append(entry.to)
    return stood


def _number(path: str) -> int:
    found = _NUMBER.search(path)
    return int(found.group(1)) if found else 0
