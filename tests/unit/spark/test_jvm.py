from __future__ import annotations

import threading
import time

from ts4s_core.spark.session.jvm import answer_of


def test_questions_are_answered_in_time_or_not_at_all() -> None:
    never = threading.Event()
    began = time.monotonic()
    assert answer_of(lambda: 3, 0) == 3
    assert answer_of(lambda: never.wait(60), False, limit_s=0.1) is False
    assert answer_of(lambda: 1 // 0, -1) == -1
    assert time.monotonic() - began < 10
    never.set()
