"""A JVM that does not answer: py4j waits for it without end, so every question that must not hang is asked from a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ts4s_core.spark.session.internals import is_open, scala_context

if TYPE_CHECKING:
    import subprocess

    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

#: Longest time for an answer to a question that takes the JVM no time.
ANSWER_LIMIT_S = 30.0
#: Longest silence of a JVM before it is killed: full garbage collections and busy machines take their time.
SILENCE_LIMIT_S = 60.0
_LOOK_EVERY_S = 5.0

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


def watch(session: SparkSession, process: subprocess.Popen[bytes], *, limit_s: float = SILENCE_LIMIT_S) -> None:
    """Kill the JVM of a session if it stops to answer, from a thread: whoever waits for it then hears of its end.

    Args:
        session: the session; the thread ends with it.
        process: the JVM.
        limit_s: longest silence, in seconds.
    """
    context = session.sparkContext

    def look() -> None:
        heard = time.monotonic()
        while process.poll() is None and is_open(context):
            if answer_of(lambda: scala_context(context).isStopped() is not None, False, limit_s=limit_s):
                heard = time.monotonic()
            elif time.monotonic() - heard >= limit_s and process.poll() is None:
                logger.warning("Spark's JVM (pid %d) did not answer for %.0f s and is killed", process.pid, limit_s)
                process.kill()
                return
            time.sleep(min(_LOOK_EVERY_S, limit_s / 4))

    threading.Thread(target=look, name="watch-jvm", daemon=True).start()
