"""Trying again after a pause, each longer than the one before: what a store failed at for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ts4s_core.errors import ConflictError, IntegrityError, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """How often something is tried, and the pauses between.

    Attributes:
        tries: the first one counted.
        first_s: the first pause, in seconds.
        factor: by which each pause is longer than the one before.
        longest_s: no pause is longer.
    """

    tries: int
    first_s: float
    factor: float = 2.0
    longest_s: float = 60.0

    def pause_s(self, failed: int) -> float:
        """The pause after so many failures, 1 or more."""
        return min(self.longest_s, self.first_s * self.factor ** (failed - 1))


#: Some fifteen seconds in all: what a store needs to come back from a restart or from too many requests.
STORE = Backoff(tries=6, first_s=0.5)


def is_transient_store_error(exc: Exception) -> bool:
    """Whether the next try may succeed: a damaged file stays damaged, and an object that somebody else wrote stays there."""
    return isinstance(exc, StoreError | OSError) and not isinstance(exc, ConflictError | IntegrityError)


def retried(
    action: Callable[[], T],
    *,
    backoff: Backoff = STORE,
    is_transient: Callable[[Exception], bool] = is_transient_store_error,
    what: str = "the store failed",
) -> T:
    """Call ``action``, and again after a pause as long as it fails with a transient error.

    Args:
        action: the call.
        backoff: number of tries, and the pauses.
        is_transient: whether the next try may succeed after such an error.
        what: what failed, for the log.

    Raises:
        Exception: the last failure, or the first that is not transient.
    """
    failed = 0
    while True:
        try:
            return action()
        except Exception as exc:
            failed += 1
            if failed >= backoff.tries or not is_transient(exc):
                raise
            pause_s = backoff.pause_s(failed)
            log.warning("%s, again in %.1f s: %s", what, pause_s, exc)
            time.sleep(pause_s)
