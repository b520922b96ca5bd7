"""The registry: which version of a model an alias points to, as a sequence of entries that are never changed.

A decision is made on the history that was read, and written against its last number: where somebody else decided meanwhile
the creation of that number fails, the facts are read again, and it is decided again. So two decisions never fork the history,
whether or not anybody holds a lease. A decision under a lease looks once more after it was written: if the lease was lost
just then, or the version was deleted, it is retracted by an entry of its own.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ts4s_core.artifacts.history import CHAMPION, KIND, REGISTRY, RETRACT, Entry, History, entry_path, number_of
from ts4s_core.artifacts.leases.lease import check_fences
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.versions.refs import ArtifactRef, check_name
from ts4s_core.errors import ConflictError, IntegrityError, LeaseHeldError, NotFoundError, StoreError, Ts4sError, listed
from ts4s_core.host_user import user_name

__all__ = ["CHAMPION", "KIND", "REGISTRY", "Entry", "History", "Registry"]

log = logging.getLogger(__name__)


class Registry:
    """Aliases of trained models. An alias is what its highest entry says."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._storage = store.storage

    def names(self) -> list[str]:
        """Every name that has entries or a trained version."""
        return sorted({*self._storage.folders(REGISTRY), *self._store.names(KIND)})

    def history(self, name: str) -> History:
        """All entries of a name."""
        return History(tuple(self._entry(path) for path in self._paths(name)))

    def entries(self, name: str) -> list[Entry]:
        """The history of a name, oldest first."""
        return list(self.history(name).entries)

    def aliases(self, name: str) -> dict[str, str]:
        """The current version of each alias."""
        return self.history(name).aliases

    def alias(self, name: str, alias: str = CHAMPION) -> str | None:
        """The version that an alias points to, if any."""
        return self._current_target(self._paths(name), check_name(alias))

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
        expected: int | None = None,
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
            expected: number of the last entry that the decision was made on; None: append it whatever was decided before.

        Raises:
            NotFoundError: if there is no such version.
            ConflictError: if ``expected`` is not the last entry's number any more: read the facts again and decide again.
            LeaseHeldError: if a lease that is held through this store was lost.
        """
        check_name(alias)
        who = f"{user_name()}@{socket.gethostname()}" if who is None else who
        while True:
            if to is not None and not self._store.sealed(ArtifactRef(KIND, name, to)):
                self._store.manifest(ArtifactRef(KIND, name, to))  # says which versions there are
            paths = self._paths(name)
            last = number_of(paths[-1]) if paths else 0
            if expected is not None and last != expected:
                raise _decided_meanwhile(name, expected=expected, last=last)
            entry = Entry(
                number=1 + last,
                name=name,
                alias=alias,
                action=action or ("promote" if promoted else "refuse"),
                before=self._current_target(paths, alias),
                to=to,
                why=why,
                who=who,
                when=_now(),
                metrics=dict(metrics or {}),
                fence=max((fence.number for fence in self._storage.fences), default=0),
            )
            try:
                self._storage.create(entry_path(name, entry.number), entry.to_json())
            except ConflictError:
                if expected is not None:
                    raise _decided_meanwhile(name, expected=expected, last=entry.number) from None
                continue  # somebody else took that number: heed what they decided
            self._confirm(entry)
            return entry

    def rollback(self, name: str, *, alias: str = CHAMPION, why: str, who: str | None = None) -> Entry:
        """Point an alias back to what it was before; again, to what it was before that.

        Raises:
            NotFoundError: if there is nothing to go back to.
        """
        while True:
            history = self.history(name)
            to = self.rollback_target(name, alias=alias, history=history)
            try:
                return self.decide(name, alias=alias, to=to, why=why, who=who, action="rollback", expected=history.number)
            except ConflictError as exc:
                log.info("%s; trying again", exc)

    def rollback_target(self, name: str, *, alias: str = CHAMPION, history: History | None = None) -> str:
        """Where a rollback would go.

        Raises:
            NotFoundError: if there is nothing to go back to.
        """
        targets = (history or self.history(name)).targets_of(alias)
        if len(targets) < 2 or targets[-2] is None:
            raise NotFoundError(
                f"Rollback of {name}@{alias} is not possible: it has no earlier version. Use `ts4s models promote`"
            )
        return targets[-2]

    def resolve(self, text: str) -> ArtifactRef:
        """The trained version that ``NAME``, ``NAME@ALIAS`` or ``NAME@VERSION`` means; plain NAME: its champion, else the newest.

        Raises:
            NotFoundError: if there is no such version; the message lists what there is.
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
        return self.history(name).needed

    def _confirm(self, entry: Entry) -> None:
        """Check lease and version once more after the entry was written: the store cannot make the three one transaction.

        Raises:
            LeaseHeldError, IntegrityError: if the entry came too late; it was retracted.
        """
        failure: Ts4sError
        try:
            check_fences(self._storage, self._storage.fences)
            if entry.to is None or self._store.sealed(ArtifactRef(KIND, entry.name, entry.to)):
                return
            failure = IntegrityError(
                f"Version {entry.to} of {entry.name} was deleted while it was decided on: it is not promoted"
            )
        except LeaseHeldError as exc:
            failure = exc
        except StoreError as exc:
            log.info("whether entry %d of %s came in time could not be asked: %s", entry.number, entry.name, exc)
            return
        if entry.action != "refuse":
            back = replace(
                entry,
                number=entry.number + 1,
                action=RETRACT,
                before=entry.to,
                to=entry.before,
                why=f"entry {entry.number} came too late and is taken back",
                when=_now(),
                metrics={},
            )
            with contextlib.suppress(ConflictError):  # somebody decided since, on what that entry said
                self._storage.create(entry_path(back.name, back.number), back.to_json(), fenced=False)
        raise failure

    def _sealed(self, ref: ArtifactRef) -> ArtifactRef:
        return self._store.manifest(ref).ref

    def _paths(self, name: str) -> list[str]:
        found = self._storage.list(f"{REGISTRY}/{check_name(name)}")
        return sorted(entry.path for entry in found if number_of(entry.path))

    def _entry(self, path: str) -> Entry:
        return Entry.from_json(self._storage.read_bytes(path), path)

    def _current_target(self, paths: list[str], alias: str) -> str | None:
        for path in reversed(paths):
            entry = self._entry(path)
            if entry.alias == alias and entry.action != "refuse":
                return entry.to
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _decided_meanwhile(name: str, *, expected: int, last: int) -> ConflictError:
    return ConflictError(
        f"Registry of {name} was changed while this was decided: expected entry {expected} to be the last, got {last}"
    )
