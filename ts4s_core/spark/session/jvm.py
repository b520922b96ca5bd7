"""A JVM that does not answer: py4j waits for it without end, so every question that must not hang is asked from a thread."""

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
    """What the JVM answers, or ``otherwise`` if it fails or does not answer in time.

    Args:
        question: calls into the JVM.
        otherwise: what stands for no answer.
        limit_s: longest wait, in seconds.
    """
    answers: list[T] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as exc:  # whatever py4j makes of a JVM that went away
            logger.debug("the JVM does not answer: %s", exc)

    thread = threading.Thread(target=ask, name="ask-jvm", daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else otherwise
