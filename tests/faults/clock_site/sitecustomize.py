"""For processes under faketime: first on their PYTHONPATH.

faketime shifts the moment until which ``time.sleep`` waits on the monotonic clock, too, so that a sleep fails or has no end when
the wall clock is stepped. A real step leaves that clock alone; so does a wait in ``select``.
"""

import os
import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
if os.environ.get("FAULT_CLOCK_ALONE"):
    # For this process alone, not for those that it starts.
    os.environ.pop("LD_PRELOAD", None)
