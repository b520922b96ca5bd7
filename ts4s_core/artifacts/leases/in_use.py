"""Marks of those who use a store without the model's lease: single steps, predictions, exports, fits.

A mark lies at ``leases/_in-use/`` and is renewed like a lease's claim, but nobody waits for it: it only keeps ``gc`` from
deleting what it may be reading or writing. Like a lease it is a fence for what is written meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ts4s_core.artifacts.leases.claims import IN_USE, KeepsLeases, LeaseFiles, claims, remove
from ts4s_core.artifacts.leases.lease import let_collection_end
from ts4s_core.artifacts.leases.renewal import OwnClaim
from ts4s_core.errors import StoreError, Ts4sError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def in_use(store: KeepsLeases | LeaseFiles, doing: str) -> Iterator[None]:
    """Say in the store that versions are read or written, until the block is left; nothing of it stays.

    Whoever holds a lease of the store already says so by that. Where the store cannot be written to, one reads on.

    Args:
        store: the store.
        doing: what is done, for people.
    """
    storage = store.storage if isinstance(store, KeepsLeases) else store
    if storage.fences:
        yield
        return
    mark = OwnClaim(storage, IN_USE, doing=doing)
    try:
        mark.take(1)
    except StoreError as exc:
        log.warning("the store cannot be marked as in use, so `ts4s models gc` elsewhere may delete what is being read: %s", exc)
        yield
        return
    try:
        _sweep(storage)
        let_collection_end(storage)
        storage.fences.append(mark.fence)
        try:
            yield
        finally:
            storage.fences.remove(mark.fence)
    finally:
        mark.give_back()


def _sweep(storage: LeaseFiles) -> None:
    """Take away the marks of processes that are known to have ended."""
    try:
        for claim in claims(storage, IN_USE):
            if claim.owner is not None and claim.owner.gone:
                remove(storage, IN_USE, claim.token)
    except Ts4sError as exc:
        log.info("marks of ended processes stay until gc: %s", exc)
