"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ts4s_core.progress import Value, as_line
from ts4s_core.shown_text import for_encoding
from ts4s_core.shown_text import line as shown

LINE_EVERY_S = 2.0
HEARTBEAT_EVERY_S = 5.0
#: Nothing is shown while the input is checked, so that a refusal is one line; a check that takes longer is shown.
QUIET_CHECK_S = 30.0
_COUNTS = ("step", "row", "file", "range", "split")


class _View(Protocol):
    def event(self, stage: str, fields: Mapping[str, Value]) -> None: ...

    def begin(self, stage: str) -> None: ...

    def end(self, stage: str, note: str, seconds: float) -> None: ...

    def close(self) -> None: ...


class Display:
    """Shows the progress of steps; safe to call from several threads.

    ``display.progress`` is the callback that the steps of ts4s_core take.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = sys.stderr if stream is None else stream
        self._view: _View = _Bars(stream) if stream.isatty() else _Lines(stream)

    def progress(self, stage: str, fields: Mapping[str, Value]) -> None:
        """Show one event of a step."""
        self._view.event(stage, fields)

    @contextmanager
    def stage(self, name: str) -> Iterator[_Note]:
        """Show that a step has begun, runs, and has ended."""
        note, began = _Note(), time.monotonic()
        self._view.begin(name)
        try:
            yield note
        except BaseException:
            self._view.end(name, "", time.monotonic() - began)
            raise
        self._view.end(name, note.text, time.monotonic() - began)

    def close(self) -> None:
        """Stop showing; the terminal is as it was before."""
        self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Note:
    """What the end of a step says: ``done`` unless the step sets something else, nothing if it is emptied."""

    text = "done"


class _Lines:
    """Plain lines: every event that is news, at most one each 2 s, at least one each 5 s while a step runs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._held: dict[str, tuple[str, Mapping[str, Value]]] = {}
        self._spoke = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._heartbeat, name="display", daemon=True).start()

    def event(self, stage: str, fields: Mapping[str, Value]) -> None:
        with self._lock:
            now = time.monotonic()
            if self._is_quiet(now):
                return
            last = fields.get("step") is not None and fields.get("step") == fields.get("steps")
            if now - self._last.get(stage, -LINE_EVERY_S) < LINE_EVERY_S and not last:
                self._held[stage] = (stage, dict(fields))
                return
            self._held.pop(stage, None)
            self._write(stage, as_line(stage, fields), now)

    def begin(self, stage: str) -> None:
        with self._lock:
            # Its first line is an event, its end, or a sign of life: so that what is refused at once stays one line.
            self._began[stage] = time.monotonic()
            self._last[stage] = self._began[stage] - LINE_EVERY_S
            self._spoke = max(self._spoke, self._began[stage])

    def end(self, stage: str, note: str, seconds: float) -> None:
        with self._lock:
            self._began.pop(stage, None)
            self._held.pop(stage, None)
            if note:
                self._write(stage, f"{stage} {note} seconds={seconds:.1f}", time.monotonic() - LINE_EVERY_S)

    def close(self) -> None:
        self._closed.set()

    def _is_quiet(self, now: float) -> bool:
        return "check" in self._began and now - self._began["check"] < QUIET_CHECK_S

    def _write(self, stage: str, line: str, now: float) -> None:
        self._last[stage] = now
        self._spoke = time.monotonic()
        self._stream.write(for_encoding(f"{shown(line)}\n", self._stream.encoding))
        self._stream.flush()

    def _heartbeat(self) -> None:
        while not self._closed.wait(0.5):
            with self._lock:
                now = time.monotonic()
                if self._is_quiet(now):
                    continue
                for stage, (name, fields) in list(self._held.items()):
                    if now - self._last.get(stage, 0.0) >= LINE_EVERY_S:
                        del self._held[stage]
                        self._write(stage, as_line(name, fields), now)
                if self._began and now - self._spoke >= HEARTBEAT_EVERY_S:
                    for stage, began in self._began.items():
                        self._write(stage, f"{stage} running seconds={now - began:.0f}", now)


class _Bars:
    """Rich progress bars, one a step."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}", markup=False),
            console=Console(file=stream),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._bars.start()

    def event(self, stage: str, fields: Mapping[str, Value]) -> None:
        with self._lock:
            task = self._task(stage)
            for count in _COUNTS:
                done, total = fields.get(count), fields.get(f"{count}s")
                if isinstance(done, int | float) and isinstance(total, int | float) and total:
                    self._bars.update(task, completed=float(done), total=float(total))
                    break
            self._bars.update(task, news=as_line("", fields).strip())

    def begin(self, stage: str) -> None:
        with self._lock:
            self._task(stage)

    def end(self, stage: str, note: str, seconds: float) -> None:
        with self._lock:
            task = self._task(stage)
            if stage == "check" or not note:
                self._bars.remove_task(self._tasks.pop(stage))
                return
            self._bars.update(task, completed=1.0, total=1.0, news=f"{shown(note)} in {seconds:.1f} s")
            self._bars.stop_task(task)

    def close(self) -> None:
        self._bars.stop()

    def _task(self, stage: str) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None, news="")
        return self._tasks[stage]
