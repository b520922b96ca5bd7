from __future__ import annotations

import threading

from ts4s_core.spark.session.answers import answer_of, is_answered


def test_questions_are_answered_in_time_or_not_at_all() -> None:
    never = threading.Event()
    assert answer_of(lambda: 3, 0) == 3
    assert answer_of(lambda: never.wait(60) or True, False, limit_s=0.1) is False  # True, had it waited
    assert answer_of(lambda: 1 // 0, -1) == -1
    assert is_answered(lambda: None)
    assert is_answered(lambda: 1 // 0) is False
    assert is_answered(lambda: never.wait(60), limit_s=0.1) is False
    never.set()
