"""Claims: what a contender for a lease, or a user of the store, keeps in it.

Below ``leases/<name>/`` a contender writes up to three objects, and nobody else writes them:

- ``<token>.choosing.json`` while it looks for its number;
- ``<token>.json``, the claim itself: written once, with the number, and never again. Others only delete it. So whoever finds
  its claim gone has lost it for good, and a process that was stopped cannot bring it back;
- ``<token>.beat.json``, which it writes anew every few seconds. A beat without a claim means nothing.

Claims of ts4s before this (one object that is rewritten with the time of its renewal) are read too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ts4s_core.artifacts.leases.identity import Owner
from ts4s_core.errors import NotFoundError, StoreError

log = logging.getLogger(__name__)

LEASES = "leases"
#: Held by ``gc`` while it looks for living runs and deletes; no model can have this name, nor the next two.
COLLECTION_LEASE = "_gc"
#: Held while an object is created on a store without conditional writes.
STORE_LEASE = "_store"
#: Below it lie the marks of those who use the store without a lease.
IN_USE = "_in-use"
CLAIM, CHOOSING, BEAT = ".json", ".choosing.json", ".beat.json"
_MOST_TIME_S = 253_402_300_800.0  # the year 10000
#: Above it no number can be followed by another.
_MOST_NUMBER = 2**62


@dataclass(frozen=True)
class Limits:
    """Times of leases, in seconds.

    Attributes:
        expires_s: whoever was not seen to renew for so long, on the watcher's own clock, has lost its claim.
        renew_s: between two renewals.
        poll_s: between two looks of whoever waits.
    """

    expires_s: float = 60.0
    renew_s: float = 5.0
    poll_s: float = 0.2


LIMITS = Limits()


class StoredObject(Protocol):
    """What a listing says of an object."""

    @property
    def path(self) -> str:
        """Relative to the store."""

    @property
    def mtime(self) -> float:
        """When it was written last, by the store's clock."""

    @property
    def tag(self) -> str:
        """Another one after each change, or empty."""


class LeaseFiles(Protocol):
    """What leases need of a storage."""

    @property
    def limits(self) -> Limits:
        """Times of its leases."""

    @property
    def fences(self) -> list[Fence]:
        """What its user holds: checked before whatever is written through it."""

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write an object, over an older one if there is one."""

    def read_bytes(self, path: str) -> bytes:
        """The object's bytes."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object, and the folders that are left empty if asked to; none there is no error."""

    def list(self, prefix: str = "") -> Sequence[StoredObject]:
        """Every object below a folder."""

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names of the folders right below a folder."""


@runtime_checkable
class KeepsLeases(Protocol):
    """A store, whose storage the leases are in."""

    @property
    def storage(self) -> LeaseFiles:
        """Its storage."""


@dataclass(frozen=True)
class Fence:
    """A lease, or a mark, as it goes along into what is written under it. Its claim in the store says whether it still holds.

    Attributes:
        name: what is held.
        token: the claim's name.
        number: higher than that of every claim that was there when it was made.
    """

    name: str
    token: str
    number: int

    @property
    def path(self) -> str:
        """The claim's object."""
        return path_of(self.name, self.token)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"name": self.name, "token": self.token, "number": self.number}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Fence:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: if the record is not a valid fence.
        """
        name, token, number = record["name"], record["token"], record["number"]
        if not all(isinstance(text, str) and text and "/" not in text for text in (name, token)) or type(number) is not int:
            raise ValueError("a fence that cannot be")
        return cls(name, token, number)


@dataclass(frozen=True)
class Claim:
    """One contender, as it was seen.

    Attributes:
        token: its own name among the contenders.
        host: name of its host, for people.
        pid: its process there, for people.
        since: when it was made by its own clock, for people.
        number: its place; 0 while it is choosing one.
        doing: what it does, for people.
        owner: which process it is; None: written by an earlier ts4s, which did not say it well enough.
        sign: differs from one renewal to the next; None: its beat could not be read just now.
        under: leases and marks that it was made under: with any of them it is lost too.
    """

    token: str
    host: str
    pid: int
    since: float
    number: int = 0
    doing: str = ""
    owner: Owner | None = None
    sign: str | None = ""
    under: tuple[Fence, ...] = ()

    @classmethod
    def from_json(cls, data: bytes, token: str, *, sign: str | None = "") -> Claim:
        """Read a claim that anybody may have written.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: if the data are not a valid claim.
        """
        record = json.loads(data)
        known, old = record.get("boot") is not None, "renewed" in record
        texts = ("token", "host", *(("boot", "pid_namespace", "doing") if known else ()))
        wholes = ("pid", "number", *(("start_ticks",) if known else ()))
        times = ("since", *(("started", "renewed") if old else ()))
        if not (known or old) or not all(isinstance(record[name], str) for name in texts):
            raise ValueError("a token, a host or an owner that is no text")
        if not all(type(record[name]) is int and 0 <= record[name] < _MOST_NUMBER for name in wholes):
            raise ValueError("a process or place that is no number")
        if not all(type(record[name]) in (int, float) and 0 <= record[name] < _MOST_TIME_S for name in times):
            raise ValueError("a time that cannot be")
        host, pid = record["host"].partition("/")[0], record["pid"]
        owner = Owner(host, record["boot"], record["pid_namespace"], pid, record["start_ticks"]) if known else None
        under = tuple(Fence.from_json(fence) for fence in record.get("under", ()))
        return cls(token, host, pid, record["since"], record["number"], record.get("doing", ""), owner, sign, under)

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since))
        doing = f" ({self.doing})" if self.doing else ""
        return f"process {self.pid} on {self.host}{doing} since {since}"


def claim_bytes(owner: Owner, token: str, *, number: int, doing: str = "", under: Sequence[Fence] = ()) -> bytes:
    """A claim as it is stored."""
    record = {
        "token": token,
        "host": owner.host,
        "boot": owner.boot,
        "pid_namespace": owner.pid_namespace,
        "pid": owner.pid,
        "start_ticks": owner.start_ticks,
        "since": time.time(),
        "number": number,
        "doing": doing,
        "under": [fence.to_json() for fence in under],
    }
    return json.dumps(record).encode()


def path_of(name: str, token: str, ending: str = CLAIM) -> str:
    """One of a contender's objects."""
    return f"{LEASES}/{name}/{token}{ending}"


def claims(storage: LeaseFiles, name: str, *, known: dict[str, bytes] | None = None) -> list[Claim]:
    """Every claim on a name, dead ones included; one that is still choosing has number 0.

    Args:
        storage: where they are.
        name: what is claimed.
        known: claims by token that were read before, and need not be read again since they are written once; updated.
    """
    known = {} if known is None else known
    by_token = _by_token(storage, name)
    for token in known.keys() - by_token.keys():
        del known[token]
    found = []
    for token, entries in sorted(by_token.items()):
        said = [
            known[token] if ending == CLAIM and token in known else _read(storage, entry.path)
            for ending, entry in entries.items()
            if ending != BEAT
        ]
        claim = next((data for data in said if data is not None), None)
        if claim is None:
            continue  # a beat alone, or given back since the listing
        sign = _sign(storage, entries[BEAT], said) if BEAT in entries else _hashed(said)
        try:
            read = Claim.from_json(claim, token, sign=sign)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            log.warning("ignoring %s, which is no lease", next(iter(entries.values())).path)
            continue
        found.append(read)
        if CHOOSING not in entries and read.owner is not None:  # without one it is of an earlier ts4s, which writes it anew
            known[token] = claim
    return found


def stray_beats(storage: LeaseFiles, name: str) -> list[str]:
    """Beats without a claim: of a process that was stopped between its look at the claim and the writing."""
    return [entries[BEAT].path for entries in _by_token(storage, name).values() if list(entries) == [BEAT]]


def remove(storage: LeaseFiles, name: str, token: str) -> None:
    """Take a claim away: its owner's writes fail from now on."""
    for ending in (CLAIM, CHOOSING, BEAT):
        storage.delete(path_of(name, token, ending), prune=True)


def _by_token(storage: LeaseFiles, name: str) -> dict[str, dict[str, StoredObject]]:
    """The objects of each contender by their endings, the one that says it is choosing first."""
    found: dict[str, dict[str, StoredObject]] = {}
    prefix = f"{LEASES}/{name}/"
    for entry in storage.list(f"{LEASES}/{name}"):
        file = entry.path.removeprefix(prefix)
        ending = next((ending for ending in (CHOOSING, BEAT, CLAIM) if file.endswith(ending)), None)
        if ending is not None and "/" not in file:
            found.setdefault(file.removesuffix(ending), {})[ending] = entry
    order = (CHOOSING, CLAIM, BEAT)
    return {token: {ending: entries[ending] for ending in order if ending in entries} for token, entries in found.items()}


def _sign(storage: LeaseFiles, beat: StoredObject, said: list[bytes | None]) -> str | None:
    """Of a claim with a beat; None where the store, which gave the claim just now, cannot give the beat.

    A server's listing says itself whether the beat was written anew: so a look costs one request, however many wait. Of files
    it may be old (NFS), and they are read.

    What cannot be read is an object in the middle of being written again on a server that does not do so at once. If its writer
    was stopped there it stays so: a claim that cannot be seen to change is not kept alive by that.
    """
    if beat.tag:
        return _hashed([*said, f"{beat.tag} {beat.mtime}".encode()])
    try:
        return _hashed([*said, _read(storage, beat.path)])
    except StoreError as exc:
        log.warning("%s cannot be read, which counts as not renewed: %s", beat.path, exc)
        return None


def _hashed(said: list[bytes | None]) -> str:
    return hashlib.sha256(b"\0".join(data or b"" for data in said)).hexdigest()


def _read(storage: LeaseFiles, path: str) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except NotFoundError:
        return None
