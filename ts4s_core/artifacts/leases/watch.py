"""Who lives: what one watcher saw of claims, on its own monotonic clock and on nobody else's.

Of a claim whose process would be in this very pid namespace the kernel knows whether it has ended. Any other is watched: it
lives if it was seen to change, and it is dead if it was seen not to change for 60 s. Only time in which the watcher looked is
counted, so that a watcher that was stopped itself, or a machine that stood still with all its processes, takes nobody for dead.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ts4s_core.artifacts.leases.claims import LEASES, Claim, LeaseFiles, claims

#: Tokens of claims that this process could not remove when it was done with them.
left_behind: set[str] = set()
#: The longest pause between two looks that counts as looking, as a share of the time after which a claim expires.
COUNTED = 1 / 12


def pause(seconds: float) -> None:
    """Wait by the kernel's own count: a sleep until a moment depends on whatever a process takes for the time."""
    select.select([], [], [], seconds)


@dataclass
class Seen:
    """A claim, and what was seen of it.

    Attributes:
        claim: as it was last.
        silent_s: for how long it was seen unchanged.
        renewed: whether it was seen to change.
        ended: whether its process is known to have ended.
        expired: whether it was silent for too long.
        undone: whether a lease that it was made under is lost, so that nothing can be written under it any more.
    """

    claim: Claim
    silent_s: float = 0.0
    renewed: bool = False
    ended: bool = False
    expired: bool = False
    undone: bool = False

    @property
    def dead(self) -> bool:
        """Whether it is to be respected no longer."""
        return self.ended or self.expired or self.undone

    @property
    def undecided(self) -> bool:
        """Whether nothing is known of it yet."""
        return not self.renewed and not self.dead


class Watch:
    """One watcher. Its memory of claims is its own: keep it as long as one waits."""

    def __init__(self, storage: LeaseFiles) -> None:
        self._storage = storage
        self._seen: dict[str, dict[str, Seen]] = {}
        self._looked: dict[str, float] = {}
        self._claims: dict[str, dict[str, bytes]] = {}

    def look(self, name: str) -> list[Seen]:
        """Every claim on a name, dead ones included."""
        limits = self._storage.limits
        found = claims(self._storage, name, known=self._claims.setdefault(name, {}))
        now = time.monotonic()
        passed = min(max(now - self._looked.get(name, now), 0.0), max(limits.expires_s * COUNTED, limits.poll_s))
        self._looked[name] = now
        before, after = self._seen.get(name, {}), {}
        for claim in found:
            seen = before.get(claim.token)
            if seen is None:
                seen = Seen(claim)
            elif None not in (seen.claim.sign, claim.sign) and seen.claim.sign != claim.sign:
                seen = Seen(claim, renewed=True)
            else:
                seen.claim = claim if seen.claim.sign is None else seen.claim
                seen.silent_s += passed
            seen.ended = claim.token in left_behind or (claim.owner is not None and claim.owner.gone)
            seen.expired = seen.silent_s >= limits.expires_s
            seen.undone = any(not self._storage.exists(fence.path) for fence in claim.under)
            after[claim.token] = seen
        self._seen[name] = after
        return list(after.values())

    def settled(self, names: Iterable[str]) -> dict[str, list[Seen]]:
        """Claims by name, looked at until each was seen to live or to be dead: at once, or as long as a claim takes to expire."""
        found: dict[str, list[Seen]] = {}
        waiting = set(names)
        while waiting:
            for name in sorted(waiting):
                found[name] = self.look(name)
            waiting = {name for name in waiting if any(seen.undecided for seen in found[name])}
            if waiting:
                pause(self._storage.limits.poll_s)
        return found


def live_claims(storage: LeaseFiles, *, watch: Watch | None = None) -> dict[str, list[Claim]]:
    """Living claims by name, of the whole store; watches as long as it takes to know."""
    found = (watch or Watch(storage)).settled(storage.folders(LEASES))
    living = {name: [seen.claim for seen in all_seen if not seen.dead] for name, all_seen in found.items()}
    return {name: claims_of for name, claims_of in living.items() if claims_of}


def holder(storage: LeaseFiles, name: str) -> Claim | None:
    """Who holds, or is about to hold, a name; watches as long as it takes to know, and writes nothing."""
    living = [seen.claim for seen in Watch(storage).settled([name])[name] if not seen.dead]
    return min(living, key=lambda claim: (claim.number or float("inf"), claim.token), default=None)
