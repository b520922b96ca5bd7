"""The parent's side of the driver program: start it, send it jobs, receive its progress, end it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import ts4s_core
from ts4s_core.errors import SparkError, from_wire
from ts4s_core.private_folders import PrivateFolder
from ts4s_core.processes import has_died, kill_tree
from ts4s_core.progress import Progress, silent
from ts4s_core.settings import Settings
from ts4s_core.settings.root import ENV_PREFIX, SECRET_FIELDS
from ts4s_core.spark.driver.events import Died, Logged, Outcome, Progressed, event_of
from ts4s_core.spark.driver.job import Job, Result

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 8.0
KILL_GRACE_S = 3.0
_POLL_S = 0.1
_LAST_LINES = 5


#: The events of one job.
Events: TypeAlias = queue.SimpleQueue[Progressed | Outcome | Died]


class SparkProgram:
    """The driver program of one run: started at its first job, started again if it died, ended by ``close``.

    One program runs its jobs one after the other and keeps its Spark session between them. With ``spark.master`` none
    the same program runs the same jobs without Spark. Any thread may call ``run``; the context manager closes it::

        with SparkProgram(settings) as program:
            program.warm_up()
            rows = program.run({"job": "scan"}, timeout_s=600)
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: _Child | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> SparkProgram:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        child = self._child
        return None if child is None or has_died(child.process.pid) else child.process.pid

    def warm_up(self) -> None:
        """Start the program and its Spark session, without waiting for it; a failure shows up in the first job."""
        self._living_child().send("warm-up", self._settings)

    def run(
        self,
        job: Mapping[str, Any],
        *,
        progress: Progress = silent,
        timeout_s: float | None = None,
        silence_s: float | None = None,
    ) -> Result:
        """Run a job and wait for its result.

        Args:
            job: ``{"job": NAME, ...}``; the settings are added.
            progress: called in this thread.
            timeout_s: end the program if the job takes longer.
            silence_s: end the program if it gives no sign of life for longer; it gives one every second, however busy.

        Raises:
            SparkError: if the program died, fell silent, or ran out of time.
            Ts4sError: what the job raised.
        """
        child = self._living_child()
        name = str(job["job"])
        events = child.send(name, self._settings, job)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while True:
                event = _next(events)
                if event is None:
                    if deadline is not None and time.monotonic() > deadline:
                        raise SparkError(f"job {name} did not end within {timeout_s:g} s and was stopped")
                    if silence_s is not None:
                        child.check_alive(name, silence_s)
                elif isinstance(event, Progressed):
                    progress(event.stage, event.fields)
                elif isinstance(event, Died):
                    raise SparkError(f"job {name} was lost: the Spark program {child.exit_description()}")
                elif event.error is not None:
                    break
                else:
                    return event.result or {}
        except BaseException:  # cancelled, out of time, or dead: nothing that it started may go on
            self.kill()
            raise
        raise from_wire(event.error)

    def close(self) -> None:
        """Let the program end; it is killed if it takes longer than 8 s."""
        with self._starting:
            child, self._child = self._child, None
        if child is not None:
            child.end(grace_s=CLOSE_LIMIT_S, number=None)

    def kill(self) -> None:
        """End the program and everything that it started, within seconds."""
        with self._starting:
            child, self._child = self._child, None
        if child is not None:
            child.end(grace_s=KILL_GRACE_S, number=signal.SIGTERM)

    def _living_child(self) -> _Child:
        with self._starting:
            if self._child is not None and has_died(self._child.process.pid):
                self._child.end(grace_s=0, number=None)
                self._child = None
            if self._child is None:
                self._child = _Child(self._settings)
            return self._child


class _Child:
    """One process of the program, with the threads that read what it writes."""

    def __init__(self, settings: Settings) -> None:
        self._folder = PrivateFolder("spark")
        self.temporary = self._folder.path
        self._ids = itertools.count()
        self._events: dict[int, Events] = {}
        self._lock = threading.Lock()
        self._dead = False
        self._last_event_at = self._looked_at = time.monotonic()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        arguments = ["--temporary", str(self.temporary), "--parent", str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ts4s_core.spark.driver.program", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(settings, self.temporary),
            pass_fds=(self._folder.lock,),  # the folder stays locked as long as either process lives
            start_new_session=True,  # Ctrl-C is the parent's to handle; and a session can be killed whole
        )
        self._threads = [
            threading.Thread(target=self._read_events, args=(self.process.stdout,), name="spark-program", daemon=True),
            threading.Thread(target=self._read_stderr, args=(self.process.stderr,), name="spark-program-stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, name: str, settings: Settings, job: Mapping[str, Any] | None = None) -> Events:
        """Send the program a job; its events go into the returned queue."""
        events: Events = queue.SimpleQueue()
        with self._lock:
            number = next(self._ids)
            self._events[number] = events
            if self._dead:
                events.put(Died())
            record = Job.of({**(job or {}), "id": number, "job": name, "settings": settings.plain()})
            with contextlib.suppress(BrokenPipeError):  # the reading thread reports its death
                assert self.process.stdin is not None
                self.process.stdin.write(json.dumps(record.to_json()).encode() + b"\n")
                self.process.stdin.flush()
        return events

    def check_alive(self, name: str, silence_s: float) -> None:
        """Check that the program sent something lately. Only time in which this process looked counts.

        Raises:
            SparkError: if it was silent for longer than ``silence_s``.
        """
        now = time.monotonic()
        if now - self._looked_at > silence_s / 2:
            self._last_event_at = now  # this process stood still itself; what the program said meanwhile is not read yet
        self._looked_at = now
        silent_s = now - self._last_event_at
        if silent_s > silence_s:
            raise SparkError(
                f"job {name} was lost: the Spark program (pid {self.process.pid}) was silent for {silent_s:.0f} s, "
                f"expected a sign of life within {silence_s:g} s. Run the command again: it resumes"
            )

    def _read_events(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._last_event_at = time.monotonic()
            event = event_of(line)
            if isinstance(event, Logged):
                logging.getLogger(event.logger).log(event.level, "%s", event.message)
            elif isinstance(event, Progressed | Outcome) and event.id is not None:
                self._events[event.id].put(event)
        with self._lock:
            self._dead = True
            for events in self._events.values():
                events.put(Died())

    def _read_stderr(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last_lines.append(text)
                logger.debug("%s", text)

    def exit_description(self) -> str:
        """``was killed by SIGKILL. Its last output: ...``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        self._threads[1].join(timeout=1)
        code = self.process.returncode
        how = "closed its output" if code is None else f"ended with code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return f"{how}. Its last output: {' | '.join(self._last_lines) or 'none'}"

    def end(self, *, grace_s: float, number: signal.Signals | None) -> None:
        """Ask the process to end (by closing its input and by a signal), wait, then kill whatever is left of its session."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if number is not None and not has_died(self.process.pid):
            self.process.send_signal(number)
        deadline = time.monotonic() + grace_s
        while not has_died(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        kill_tree(self.process.pid)
        self.process.wait()
        for thread, stream in zip(self._threads, (self.process.stdout, self.process.stderr), strict=True):
            thread.join(timeout=1)
            if stream is not None and not thread.is_alive():
                stream.close()
        self._folder.remove()


def _next(events: Events) -> Progressed | Outcome | Died | None:
    """The next event, or None after a while: a thread that waits without end cannot be cancelled."""
    try:
        return events.get(timeout=_POLL_S)
    except queue.Empty:
        return None


def child_environment(settings: Settings, temporary: Path) -> dict[str, str]:
    """The environment of the program: secrets are here and nowhere else; other settings travel with each job."""
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("TS4S_")}
    for group, name in SECRET_FIELDS:
        value = getattr(getattr(settings, group), name)
        if value is not None:
            environ[f"{ENV_PREFIX}{group}__{name}".upper()] = value.get_secret_value()
    home = str(Path(ts4s_core.__file__).parent.parent)  # also where ts4s runs without being installed
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environ.get("PYTHONPATH"))))
    environ["TMPDIR"] = str(temporary)
    return environ
