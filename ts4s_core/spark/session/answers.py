"""A JVM or a Spark Connect server that does not answer: py4j waits for the one without end, Spark's client for the other for ten
minutes, so every question that must not hang is asked from a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

#: Longest time for an answer to a question that takes the JVM no time.
ANSWER_LIMIT_S = 30.0
#: Longest silence of a JVM before it is killed: full garbage collections and busy machines take their time.
SILENCE_LIMIT_S = 60.0

T = TypeVar("T")


def answer_of(question: Callable[[], T], otherwise: T, *, limit_s: float = ANSWER_LIMIT_S) -> T:
    """What Spark answers, or ``otherwise`` if it fails or does not answer in time.

    Args:
        question: calls into the JVM, or asks the server.
        otherwise: what stands for no answer.
        limit_s: longest wait, in seconds.
    """
    answers: list[T] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as exc:  # whatever its client makes of one that went away
            logger.debug("Spark does not answer: %s", exc)

    thread = threading.Thread(target=ask, name="ask-spark", daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else otherwise


def is_answered(question: Callable[[], object], *, limit_s: float = ANSWER_LIMIT_S) -> bool:
    """Whether Spark answers in time, whatever it says."""
    return answer_of(lambda: (question(),), None, limit_s=limit_s) is not None
