"""Trying again where a store failed for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ts4s_core.errors import IntegrityError, StoreError

log = logging.getLogger(__name__)
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)

T = TypeVar("T")


def retried(action: Callable[[], T]) -> T:
    """Do it again after a pause while the store fails, some fifteen seconds in all.

    Raises:
        StoreError, OSError: the last failure.
    """
    for pause in _PAUSES_S:
        try:
            return action()
        except IntegrityError:
            raise
        except (StoreError, OSError) as exc:
            log.warning("the store failed, again in %.1f s: %s", pause, exc)
            time.sleep(pause)
    return action()
