"""One claim of this process: written, renewed by a thread as long as it is held, taken away at the end."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import uuid

from ts4s_core.artifacts.leases.claims import (
    BEAT,
    CHOOSING,
    CLAIM,
    COLLECTION_LEASE,
    Fence,
    LeaseFiles,
    claim_bytes,
    path_of,
    remove,
)
from ts4s_core.artifacts.leases.identity import this_owner
from ts4s_core.artifacts.leases.watch import left_behind
from ts4s_core.errors import LeaseHeldError, Ts4sError
from ts4s_core.retries import Backoff, retried

log = logging.getLogger(__name__)
GIVING_BACK = Backoff(tries=4, first_s=0.5)


class OwnClaim:
    """A claim on a name, of this process.

    Attributes:
        token: its name among the contenders.
        number: its place, once there is one.
    """

    def __init__(self, storage: LeaseFiles, name: str, *, doing: str = "") -> None:
        self.token = uuid.uuid4().hex
        self.number = 0
        self._storage = storage
        self._name = name
        self._doing = doing
        self._under = tuple(fence for fence in storage.fences if fence.name != COLLECTION_LEASE)
        self._ended: tuple[int, int] | None = None
        self._lost = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lease-{name}", daemon=True)

    @property
    def fence(self) -> Fence:
        """What goes along into everything that is written under this claim."""
        return Fence(self._name, self.token, self.number)

    def say_choosing(self) -> None:
        """Tell the others that a number is being looked for: until there is one, they wait."""
        self._write(CHOOSING)

    def take(self, number: int) -> None:
        """Write the claim with its number, and renew it from now on."""
        self.number = number
        self._write(CLAIM)
        self._ended = os.pipe()
        self._renewer.start()

    def chosen_in_time(self) -> bool:
        """Whether nobody took this process for dead while it chose; it is choosing no longer."""
        if not self._storage.exists(self._path(CHOOSING)):
            return False
        self._storage.delete(self._path(CHOOSING))
        return True

    def stands(self) -> bool:
        """Whether the claim is still there."""
        return not self._lost.is_set() and self._storage.exists(self._path(CLAIM))

    def check(self) -> None:
        """Make sure that the claim is still there.

        Raises:
            LeaseHeldError: if others took it away, because this process was silent for too long.
        """
        if not self.stands():
            self._lost.set()
            raise lost(self.fence, self._storage)

    def give_back(self) -> None:
        """What was done under the claim is done, whether the store answers now or not."""
        self._stop_renewing()
        try:
            retried(
                lambda: remove(self._storage, self._name, self.token),
                backoff=GIVING_BACK,
                what=f"the lease of {self._name} is still there",
            )
        except Ts4sError as exc:
            left_behind.add(self.token)
            wait = f"others wait {self._storage.limits.expires_s:.0f} s, or until this process ends"
            log.warning("lease of %s could not be given back, %s: %s", self._name, wait, exc)

    def _stop_renewing(self) -> None:
        if self._ended is None:
            return
        reading, writing = self._ended
        os.write(writing, b"1")  # a close would wake nobody where a child has inherited that end
        self._renewer.join()
        os.close(writing)
        os.close(reading)
        self._ended = None

    def _write(self, ending: str) -> None:
        claim = claim_bytes(this_owner(), self.token, number=self.number, doing=self._doing, under=self._under)
        self._storage.write_bytes(self._path(ending), claim)

    def _path(self, ending: str) -> str:
        return path_of(self._name, self.token, ending)

    def _renew(self) -> None:
        storage, beats = self._storage, 0
        assert self._ended is not None
        ended = select.poll()
        ended.register(self._ended[0], select.POLLIN)
        # A wait that the kernel counts: see watch.pause.
        while not ended.poll(1_000 * storage.limits.renew_s):
            try:
                if storage.exists(self._path(CLAIM)):
                    beats += 1
                    storage.write_bytes(self._path(BEAT), json.dumps({"beat": beats}).encode())
                    if storage.exists(self._path(CLAIM)):
                        continue
                # Others took it away; a beat that came after that would mean nothing, but it would lie there.
                self._lost.set()
                storage.delete(self._path(BEAT), prune=True)
                return
            except Ts4sError as exc:
                log.warning("lease of %s could not be renewed, trying again: %s", self._name, exc)


def lost(fence: Fence, storage: LeaseFiles) -> LeaseHeldError:
    """The error of a write that comes too late."""
    return LeaseHeldError(
        f"Lease of {fence.name} was lost: this process was silent for {storage.limits.expires_s:.0f} s, and others went on "
        "without it. What it was about to write was not written; run the command again"
    )


def check_fences(storage: LeaseFiles, fences: list[Fence] | tuple[Fence, ...]) -> None:
    """Make sure, right before a write, that everything that it is made under still holds.

    Raises:
        LeaseHeldError: naming what was lost.
    """
    for fence in fences:
        if not storage.exists(fence.path):
            raise lost(fence, storage)
