"""The program's own log as the run's log in Prefect: the workers' words with rank and host too, and from any thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger, runtime
from prefect.logging.loggers import LoggingAdapter

from ts4s_core.addresses import without_secrets
from ts4s_core.shown_text import line

OWN_LOGGER = "ts4s_core"


@contextmanager
def run_log() -> Iterator[None]:
    """Pass every record of ts4s from INFO on to the log of the flow run that is under way."""
    handler, logger = _ToRun(get_run_logger()), logging.getLogger(OWN_LOGGER)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if runtime.deployment.id is not None:
        logger.propagate = False  # a worker's terminal shows the run's log already
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.removeHandler(handler)


class _ToRun(logging.Handler):
    """Prefect's own handler needs a run in the context, which threads do not have; the adapter carries it."""

    def __init__(self, log: logging.Logger | LoggingAdapter) -> None:
        super().__init__(level=logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, "%s", line(without_secrets(record.getMessage())))
