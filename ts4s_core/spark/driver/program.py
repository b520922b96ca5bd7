"""The driver of a Spark step as a process of its own, which a timeout or a cancel can end.

``python -m ts4s_core.spark.driver.program --temporary FOLDER --parent PID`` reads one JSON job a line from standard input and
writes JSON lines to standard output: ``beat`` every second, ``progress``, ``log``, and for each job one ``outcome``.
It ends when standard input closes, on SIGTERM, and when its parent dies; whatever it started ends with it.

``spark-submit --py-files ts4s_core.zip program.py --job FILE.json`` runs one job on a cluster and prints its last line.

Secrets are in neither jobs nor arguments: the child reads them from its environment (``TS4S_STORAGE__KEY``, ...).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ts4s_core.errors import SettingsError, Ts4sError, to_wire
from ts4s_core.private_folders import PrivateFolder, remove_private
from ts4s_core.processes import die_with_parent, kill_tree
from ts4s_core.progress import Value
from ts4s_core.settings import load_settings
from ts4s_core.spark.driver.events import Beat, Event, Logged, Outcome, Progressed, as_line
from ts4s_core.spark.driver.job import Job
from ts4s_core.spark.driver.job_context import JobContext
from ts4s_core.spark.driver.jobs import run_job
from ts4s_core.spark.session.failures import as_error

logger = logging.getLogger(__name__)

STOP_LIMIT_S = 4.0
BEAT_EVERY_S = 1.0


class EventWriter(logging.Handler):
    """Writes events as JSON lines to the parent, from any thread; as a log handler, log records too."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(level=logging.INFO)
        self._stream = stream
        self._write_lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Write one event."""
        line = as_line(event)
        with self._write_lock, contextlib.suppress(BrokenPipeError):  # a dead parent is noticed elsewhere
            self._stream.write(line)
            self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """A log record as an event."""
        self.send(Logged(logger=record.name, level=record.levelno, message=self.format(record)))

    def start_heartbeat(self) -> None:
        """Send a heartbeat every second from now on, so that the parent can distinguish a stopped program from a busy one."""

        def send_beats() -> None:
            while True:
                self.send(Beat())
                time.sleep(BEAT_EVERY_S)

        threading.Thread(target=send_beats, name="beat", daemon=True).start()


class Shutdown:
    """Ends the program; callable from any thread, also while the main thread is inside native code."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._once = threading.Lock()
        self.context: JobContext | None = None

    def run(self, code: int) -> None:
        """Stop Spark, end every process that was started here, remove the temporary folder, exit."""
        if not self._once.acquire(blocking=False):
            return
        context = self.context
        # A local master dies with its JVM; a cluster should learn that the application is over.
        if context is not None and context.has_spark and not context.settings.spark.master.startswith("local"):
            stopping = threading.Thread(target=context.sessions.stop, daemon=True)
            stopping.start()
            stopping.join(STOP_LIMIT_S)
        kill_tree(os.getpid())
        remove_private(self._temporary)
        os._exit(code)

    def on_signals(self) -> None:
        """End on SIGTERM and SIGINT. A thread acts on them: a handler of Python's would wait for native code to return."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)

        def watch() -> None:
            while True:
                for number in os.read(reading, 64):
                    if number in (signal.SIGTERM, signal.SIGINT):
                        self.run(128 + number)

        threading.Thread(target=watch, name="signals", daemon=True).start()


def private_streams() -> tuple[IO[bytes], IO[str]]:
    """Standard input and output for the protocol alone: anything else that prints, the JVM included, goes to standard error."""
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs, results


def context_for(job: Job, *, temporary: Path, previous: JobContext | None) -> JobContext:
    """The context of a job; the session of the previous job is kept where it fits.

    Raises:
        SettingsError: if the job's settings are refused.
    """
    settings = load_settings(job.settings)
    return JobContext(settings, temporary) if previous is None else dataclasses.replace(previous, settings=settings)


def serve(jobs: IO[bytes], writer: EventWriter, *, shutdown: Shutdown, temporary: Path) -> None:
    """Run jobs one after the other until the stream of jobs ends; never returns."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def read() -> None:
        for line in jobs:
            waiting.put(Job.of(json.loads(line)))
        shutdown.run(0)

    threading.Thread(target=read, name="jobs", daemon=True).start()
    while True:
        job = waiting.get()
        writer.send(_outcome(job, writer, shutdown=shutdown, temporary=temporary))


def _outcome(job: Job, writer: EventWriter, *, shutdown: Shutdown, temporary: Path) -> Outcome:
    """Run a job to its end, whichever that is."""

    def progress(stage: str, fields: Mapping[str, Value]) -> None:
        writer.send(Progressed(id=job.id, stage=stage, fields=dict(fields)))

    try:
        shutdown.context = context_for(job, temporary=temporary, previous=shutdown.context)
        return Outcome(id=job.id, result=run_job(job, context=shutdown.context, progress=progress))
    except Ts4sError as exc:
        return Outcome(id=job.id, error=to_wire(exc))
    except Exception as exc:
        error = as_error(exc, what=f"job {job.job}")
        if type(error) is Ts4sError:  # a bug: the traceback shows where
            logger.exception("%s", error)
        else:
            logger.debug("%s", error, exc_info=exc)
        return Outcome(id=job.id, error=to_wire(error))


def _run_submitted(path: Path) -> int:
    """One job under spark-submit, which owns the JVM and its end."""
    jobs, results = private_streams()
    jobs.close()
    writer = EventWriter(results)
    logging.getLogger("ts4s_core").addHandler(writer)
    with PrivateFolder("submitted") as folder:
        shutdown = Shutdown(folder)
        try:
            job = Job.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as exc:
            writer.send(Outcome(error=to_wire(SettingsError(f"--job {path} cannot be read as JSON: {exc}"))))
            return 2
        except SettingsError as exc:
            writer.send(Outcome(error=to_wire(exc)))
            return 2
        outcome = _outcome(job, writer, shutdown=shutdown, temporary=folder)
        if shutdown.context is not None:
            shutdown.context.sessions.stop()
        writer.send(outcome)
    return 0 if outcome.error is None else 1


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="ts4s_core.spark.driver.program", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--job", type=Path, help="run the one job in this JSON file (under spark-submit)")
    parser.add_argument("--temporary", type=Path, help="private folder for what Spark writes; removed at the end")
    parser.add_argument("--parent", type=int, help="process that this one ends with")
    arguments = parser.parse_args()
    if arguments.job is not None:
        return _run_submitted(arguments.job)
    if arguments.temporary is None or arguments.parent is None:
        parser.error("--temporary and --parent go together; or give --job")
    jobs, results = private_streams()
    shutdown = Shutdown(arguments.temporary)
    shutdown.on_signals()
    die_with_parent(arguments.parent, on_death=lambda: shutdown.run(1))
    writer = EventWriter(results)
    writer.start_heartbeat()
    own = logging.getLogger("ts4s_core")
    own.setLevel(logging.INFO)
    own.propagate = False
    own.addHandler(writer)
    serve(jobs, writer, shutdown=shutdown, temporary=arguments.temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
