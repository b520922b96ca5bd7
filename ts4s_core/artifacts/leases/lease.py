"""Leases: one holder at a time, on any store, without conditional writes; and a holder that was silent is fenced out.

Who goes first is Lamport's bakery: say "choosing", look at all numbers, take a higher one, then wait for everybody who is
still choosing or has a lower (number, token). It needs only that a finished write, or deletion, is seen by the next read and
listing, which folders and S3 give. Of the dead: see :mod:`ts4s_core.artifacts.leases.watch`. Whoever takes somebody for dead
deletes his claim and looks again; whoever chose looks whether its word "choosing" is still there. So of a process that was
stopped while it chose and the one that took it for dead, one sees the other, whatever their clocks say, and the first starts
over.

A lease is a fence. Its number is higher than all that were there; it goes along, with the claim's token, into every
reservation, part, seal and decision, and right before each the claim must still be there (:func:`check_fences`). A claim is
written once and only deleted by others, so a holder that was stopped for longer than the limit and wakes fails at its next
write, by name. Between that look and the write itself no store lets anybody look at two objects at once: what decides
(manifest, registry entry) is therefore a conditional create on the state that was read, everything else has names of its
writer's own and no effect until it is sealed, and whoever created what decides looks once more and takes it back if it came
too late.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from ts4s_core.artifacts.leases.claims import (
    COLLECTION_LEASE,
    IN_USE,
    LEASES,
    LIMITS,
    STORE_LEASE,
    Claim,
    Fence,
    KeepsLeases,
    LeaseFiles,
    Limits,
    claims,
    remove,
)
from ts4s_core.artifacts.leases.renewal import OwnClaim, check_fences
from ts4s_core.artifacts.leases.watch import COUNTED, Seen, Watch, holder, live_claims, pause
from ts4s_core.errors import LeaseHeldError

__all__ = [
    "COLLECTION_LEASE",
    "IN_USE",
    "LEASES",
    "LIMITS",
    "STORE_LEASE",
    "Claim",
    "Fence",
    "Lease",
    "LeaseFiles",
    "Limits",
    "check_fences",
    "claims",
    "holder",
    "live_claims",
]

log = logging.getLogger(__name__)
#: Whoever waits for longer than this looks less often, the less the more are ahead, and says so.
_PATIENCE_S = 1.0
_LONG_POLLS = 5


class Lease:
    """A held lease. Use :meth:`hold`.

    Attributes:
        replaced_silent: whether it was taken from somebody who was silent for too long, and who may wake.
    """

    def __init__(self, storage: LeaseFiles, name: str, *, doing: str = "") -> None:
        self.replaced_silent = False
        self._storage = storage
        self._name = name
        self._doing = doing
        self._claim = OwnClaim(storage, name, doing=doing)
        self._watch = Watch(storage)

    @classmethod
    @contextlib.contextmanager
    def hold(
        cls, store: KeepsLeases | LeaseFiles, name: str, *, wait: bool = True, fencing: bool = True, doing: str = ""
    ) -> Iterator[Lease]:
        """Hold the lease of a name, and give it back at the end.

        Args:
            store: where the lease is kept; what is written through it meanwhile is written under the lease.
            name: what is held, a model's name as a rule.
            wait: wait for another holder; else watch until the other one is seen to live, or to be silent for too long.
            fencing: whether writes through the store are under this lease.
            doing: what it is held for, for people.

        Raises:
            LeaseHeldError: with ``wait=False``, naming the holder.
        """
        storage = store.storage if isinstance(store, KeepsLeases) else store
        lease = cls(storage, name, doing=doing)
        try:
            lease._enter(wait)
            if name not in (COLLECTION_LEASE, STORE_LEASE):
                let_collection_end(storage)
            if fencing:
                storage.fences.append(lease.fence)
            try:
                yield lease
            finally:
                if fencing:
                    storage.fences.remove(lease.fence)
        finally:
            lease._claim.give_back()

    @property
    def fence(self) -> Fence:
        """What goes along into everything that is written under this lease."""
        return self._claim.fence

    def check(self) -> None:
        """Make sure that the lease is still ours; call it right before what only one may do.

        Raises:
            LeaseHeldError: if this process was silent so long that others took it for dead.
        """
        self._claim.check()

    def _enter(self, wait: bool) -> None:
        while not (self._choose() and self._queue(wait)):
            log.info("lease of %s: this process was silent for too long while it waited, and starts over", self._name)
            self._claim.give_back()
            self._claim = OwnClaim(self._storage, self._name, doing=self._doing)

    def _choose(self) -> bool:
        """Take a number; false if others took this process for dead meanwhile."""
        self._claim.say_choosing()
        # The time makes numbers of holders that never met increase too, where clocks do. Nothing depends on that.
        self._claim.take(1 + max([time.time_ns() // 1_000_000, *(claim.number for claim in claims(self._storage, self._name))]))
        return self._claim.chosen_in_time()

    def _queue(self, wait: bool) -> bool:
        """Wait until nobody is ahead; false if others took this process for dead meanwhile."""
        mine, began, logged = (self._claim.number, self._claim.token), time.monotonic(), False
        while True:
            seen = self._watch.look(self._name)
            if not any(one.claim.token == self._claim.token and one.claim.number for one in seen):
                return False
            others = [one for one in seen if one.claim.token != self._claim.token]
            if self._drop_dead(others):
                continue  # somebody who chose meanwhile, and was taken for dead, may be ahead
            ahead = [one for one in others if one.claim.number == 0 or (one.claim.number, one.claim.token) < mine]
            if not ahead:
                return True
            living = [one for one in ahead if one.renewed]
            if living and not wait:
                raise LeaseHeldError(f"Lease of {self._name} is held by {_first(living)}: try again when that run has ended")
            long = time.monotonic() - began > _PATIENCE_S
            if long and not logged:
                level = logging.INFO if self._name.startswith("_") else logging.WARNING
                log.log(level, "waiting for the lease of %s, held by %s", self._name, _first(ahead))
                logged = True
            pause(self._pause_s(ahead, patient=long and wait))

    def _pause_s(self, ahead: list[Seen], *, patient: bool) -> float:
        """Seconds until the next look."""
        limits = self._storage.limits
        if patient:  # a look asks the store for every contender: many who wait must not crowd out the one who works
            return max(limits.poll_s, min(limits.poll_s * _LONG_POLLS * len(ahead), limits.expires_s * COUNTED * 0.8))
        return limits.poll_s if any(one.claim.number for one in ahead) else limits.poll_s / 10

    def _drop_dead(self, others: list[Seen]) -> bool:
        dead = [one for one in others if one.dead]
        for one in dead:
            log.info("removing the lease of %s from %s, which is gone", self._name, one.claim)
            remove(self._storage, self._name, one.claim.token)
            if not one.ended:
                self.replaced_silent = True
                level = logging.INFO if self._name.startswith("_") else logging.WARNING
                log.log(level, "lease of %s was taken from %s: it was silent for too long", self._name, one.claim)
        return bool(dead)


def let_collection_end(storage: LeaseFiles) -> None:
    """Wait for ``gc``: one that began before one's own claim was written may delete what one would use; a later one sees it."""
    watch, logged = Watch(storage), False
    while any(not seen.dead for seen in watch.look(COLLECTION_LEASE)):
        if not logged:
            log.info("waiting until `ts4s models gc` has ended")
            logged = True
        pause(storage.limits.poll_s)


def _first(contenders: list[Seen]) -> Claim:
    return min((one.claim for one in contenders), key=lambda claim: (claim.number, claim.token))
