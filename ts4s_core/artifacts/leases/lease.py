"""Leases: one holder at a time, on any store, without conditional writes.

Every contender keeps one object of its own, ``leases/<name>/<token>.json``, and nobody else writes it. Who goes first is
Lamport's bakery: write "choosing", look at all numbers, take a higher one, then wait for everybody who is still choosing or
holds a lower (number, token). It needs only that a finished write is seen by the next read and listing, which folders and
S3 give. A claim holds host, pid, the process's start time and the time of its last renewal: on the same host a dead owner's
claim is removed at once, any other when it was not renewed for 60 s (hosts' clocks must agree within a few seconds).
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from ts4s_core.errors import LeaseHeldError, NotFoundError, Ts4sError
from ts4s_core.retries import Backoff, retried

log = logging.getLogger(__name__)
#: Tokens of claims that this process could not remove when it was done.
_left: set[str] = set()
LEASES = "leases"
#: Held by ``gc`` while it looks for living runs and deletes; no model can have this name.
COLLECTION_LEASE = "_gc"
EXPIRES_S = 60.0
RENEW_S = 10.0
POLL_S = 0.2
SETTLE_S = 10.0
_MOST_TIME_S = 253_402_300_800.0  # the year 10000
GIVING_BACK = Backoff(tries=4, first_s=0.5)


class StoredObject(Protocol):
    """What a listing says of an object."""

    @property
    def path(self) -> str:
        """Relative to the store."""


class LeaseFiles(Protocol):
    """What leases need of a storage."""

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write an object, over an older one if there is one."""

    def read_bytes(self, path: str) -> bytes:
        """The object's bytes."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

    def delete(self, path: str) -> None:
        """Remove an object; none there is no error."""

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
class Claim:
    """One contender's object. ``number`` is 0 while it is choosing one."""

    token: str
    host: str
    pid: int
    started: float
    since: float
    renewed: float
    number: int = 0

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """Read a claim that anybody may have written.

        Raises:
            ValueError: if it is none.
            TypeError: if it lacks a field, or has another.
        """
        claim = cls(**json.loads(data))
        times = (claim.started, claim.since, claim.renewed)
        wholes = (claim.pid, claim.number)
        if not all(isinstance(text, str) for text in (claim.token, claim.host)):
            raise ValueError("a token or host that is no text")
        if not all(type(number) is int and 0 <= number < 2**63 for number in wholes):
            raise ValueError("a process or place that is no number")
        if not all(type(time_s) in (int, float) and 0 <= time_s < _MOST_TIME_S for time_s in times):
            raise ValueError("a time that cannot be")
        return claim

    @property
    def alive(self) -> bool:
        """Whether the owner is to be respected."""
        if self.host == this_host() and (self.token in _left or process_start(self.pid) != self.started):
            return False
        return time.time() - self.renewed < EXPIRES_S

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since))
        return f"process {self.pid} on {self.host.partition('/')[0]} since {since}"


class Lease:
    """A held lease. Use :meth:`hold`."""

    def __init__(self, storage: LeaseFiles, name: str, claim: Claim) -> None:
        self._storage = storage
        self._name = name
        self._claim = claim
        self._ended = threading.Event()
        self._lost = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def hold(cls, store: KeepsLeases | LeaseFiles, name: str, *, wait: bool = True) -> Iterator[Lease]:
        """Hold the lease of a name, and give it back at the end.

        Args:
            store: where the lease is kept.
            name: what is held, a model's name as a rule.
            wait: wait for another holder, or fail at once.

        Raises:
            LeaseHeldError: with ``wait=False``, naming the holder.
        """
        storage = store.storage if isinstance(store, KeepsLeases) else store
        now = time.time()
        claim = Claim(f"{time.time_ns():020d}-{uuid.uuid4().hex}", this_host(), os.getpid(), process_start(os.getpid()), now, now)
        lease = cls(storage, name, claim)
        renewer = threading.Thread(target=lease._renew, name=f"lease-{name}", daemon=True)
        try:
            lease._choose()
            renewer.start()
            lease._queue(wait)
            if not name.startswith("_"):
                lease._let_collection_end()
            yield lease
        finally:
            lease._ended.set()
            if renewer.is_alive():
                renewer.join()
            lease._give_back()

    def check(self) -> None:
        """Make sure that the lease is still ours; call it before what only one may do.

        Raises:
            LeaseHeldError: if this process was silent so long that it counts as dead.
        """
        if self._lost.is_set() or not self._storage.exists(self._path):
            raise LeaseHeldError(
                f"Lease of {self._name} was lost: it was not renewed for {EXPIRES_S:.0f} s. Run the command again"
            )

    def _give_back(self) -> None:
        """What was done under the lease is done, whether the store answers now or not."""
        try:
            retried(
                lambda: self._storage.delete(self._path), backoff=GIVING_BACK, what=f"the lease of {self._name} is still there"
            )
        except Ts4sError as exc:
            _left.add(self._claim.token)
            wait = f"others wait {EXPIRES_S:.0f} s, or until this process ends"
            log.warning("lease of %s could not be given back, %s: %s", self._name, wait, exc)

    @property
    def _path(self) -> str:
        return f"{LEASES}/{self._name}/{self._claim.token}.json"

    def _write(self, claim: Claim) -> None:
        self._storage.write_bytes(self._path, json.dumps(asdict(claim)).encode())

    def _choose(self) -> None:
        self._write(self._claim)
        number = 1 + max(claim.number for claim in claims(self._storage, self._name))
        self._claim = replace(self._claim, number=number, renewed=time.time())
        self._write(self._claim)

    def _queue(self, wait: bool) -> None:
        mine, told, settled = (self._claim.number, self._claim.token), False, time.monotonic() + SETTLE_S
        while True:
            ahead = [claim for claim in self._living_others() if claim.number == 0 or (claim.number, claim.token) < mine]
            if not ahead:
                return
            holders = [claim for claim in ahead if claim.number]
            if not wait and (holders or time.monotonic() > settled):
                raise LeaseHeldError(f"Lease of {self._name} is held by {_first(ahead)}: try again when that run has ended")
            if holders and not told:
                log.info("waiting for the lease of %s, held by %s", self._name, _first(holders))
                told = True
            time.sleep(POLL_S if holders else POLL_S / 10)

    def _let_collection_end(self) -> None:
        """A collection that began before this claim was written may delete what this run would reuse; a later one sees it."""
        told = False
        while any(claim.alive for claim in claims(self._storage, COLLECTION_LEASE)):
            if not told:
                log.info("waiting until `ts4s models gc` has ended")
                told = True
            time.sleep(POLL_S)

    def _living_others(self) -> list[Claim]:
        living = []
        for claim in claims(self._storage, self._name):
            if claim.token == self._claim.token:
                continue
            if claim.alive:
                living.append(claim)
            else:
                log.info("removing the lease of %s from %s, which is gone", self._name, claim)
                self._storage.delete(f"{LEASES}/{self._name}/{claim.token}.json")
        return living

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                if not self._storage.exists(self._path):
                    self._lost.set()
                    return
                silent_since = self._claim.renewed
                renewed = replace(self._claim, renewed=time.time())
                self._write(renewed)
                self._claim = renewed  # not before: what a store did not take, the others do not know
                # A process that was stopped between the look and the write brings a claim back that others have removed.
                if time.time() - silent_since > EXPIRES_S and self._living_others():
                    self._lost.set()
                    return
            except Ts4sError as exc:
                if time.time() - self._claim.renewed > EXPIRES_S:
                    self._lost.set()
                    return
                log.warning("lease of %s could not be renewed, trying again: %s", self._name, exc)


def _first(contenders: list[Claim]) -> Claim:
    return min(contenders, key=lambda claim: (claim.number, claim.token))


def claims(storage: LeaseFiles, name: str) -> list[Claim]:
    """Every claim on a name, dead ones included."""
    found = []
    for entry in storage.list(f"{LEASES}/{name}"):
        try:
            found.append(Claim.from_json(storage.read_bytes(entry.path)))
        except NotFoundError:
            continue  # given back since the listing
        except (ValueError, TypeError, RecursionError):
            log.warning("ignoring %s, which is no lease", entry.path)
    return found


def live_claims(storage: LeaseFiles) -> dict[str, list[Claim]]:
    """Living claims by name, of the whole store."""
    by_name = {name: [claim for claim in claims(storage, name) if claim.alive] for name in storage.folders(LEASES)}
    return {name: living for name, living in by_name.items() if living}


@functools.cache
def this_host() -> str:
    """Name and boot of this host: a process id means nothing after a reboot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "unknown"
    return f"{socket.gethostname()}/{boot}"


def process_start(pid: int) -> float:
    """When a process was started, or 0 if it is gone (a zombie included)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return 0.0
