"""An attempt whose control server is in rank 0's process, as its client sees it: by objects in the store, and rows at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from ts4s_core.artifacts.facts import JsonObject
from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.errors import StoreError, Ts4sError, WorkerLostError, from_wire
from ts4s_core.training.control.channel import beat_every_s
from ts4s_core.training.control.mailbox import Event, Joined, MailAddress, Mailbox, Progressed, Said
from ts4s_core.training.control.messages import Failed, Result, WorkerResult
from ts4s_core.training.control.server import CONNECT_LIMIT_S, Follow, WorkerInfo
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

#: What a rank's row holds in place of a result, if it refused to begin.
REFUSED = "refused"
_POLL_S = 0.25


class RemoteControl:
    """Follows an attempt, and gives it the client's signs of life; a context manager, after which none of its objects is left.

    Args:
        job: the attempt, with the store's secrets: workers have no other way to them.
        world_size: number of ranks.
        listener: called with (rank, message) for every message of a worker that is for whoever follows the training.

    Attributes:
        job: as it is given to workers.
        mail: where workers look for this client.
        failure: the first failure, if there was one.
        failed: set with it.
        finished: whether every rank's result came.
    """

    def __init__(self, job: TrainJob, *, world_size: int, listener: Follow) -> None:
        self.job = job
        self.world_size = world_size
        self.failure: Ts4sError | None = None
        self.failed = threading.Event()
        self.finished = False
        storage = Storage.open(job.storage_settings())
        self.mail = MailAddress.new(storage, job.output_ref, job.generation)
        self._mailbox = Mailbox(storage, self.mail)
        self._timeout_s = job.timeout_s
        self._follow = listener
        self._workers: dict[int, WorkerInfo] = {}
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._read = 0
        self._heard: float | None = None
        self._connect_deadline = time.monotonic() + max(CONNECT_LIMIT_S, job.timeout_s)
        self._closed = threading.Event()
        self._mailbox.write_sign(beat=0)
        for target in (self._beat, self._listen):
            threading.Thread(target=target, name=f"remote-{target.__name__.strip('_')}", daemon=True).start()

    def workers(self) -> dict[int, WorkerInfo]:
        """The workers that have connected, by rank."""
        with self._lock:
            return dict(self._workers)

    def fail(self, error: Ts4sError) -> None:
        """Fail the attempt, unless it has failed or ended before; its workers hear of it by the store."""
        with self._lock:
            if self.failure is not None or self.finished:
                return
            self.failure = error
        self.failed.set()

    def take(self, rows: Sequence[JsonObject]) -> None:
        """Take the rows of the stage: each rank's result, or why it refused to begin.

        Raises:
            Ts4sError: the refusal.
        """
        self.drain()
        for row in rows:
            if REFUSED in row:
                raise from_wire(row[REFUSED])
        results = [WorkerResult.model_validate(row) for row in rows]
        for result in sorted(results, key=lambda result: result.rank):
            self._follow(result.rank, Result(result=result))
        self.finished = len(results) == self.world_size

    def drain(self) -> None:
        """Read all events that there are."""
        try:
            while self._take_events():
                pass
        except StoreError as exc:
            log.debug("no news of the training: %s", exc)

    def close(self) -> None:
        """End: workers that are still there find no client any more, and exit."""
        self._closed.set()
        try:
            if not self.finished:
                self._mailbox.write_sign(beat=-1, ended=True)
                return  # for those that still look; the folder goes with the version that was begun, or with the next attempt
            self._mailbox.remove()
        except Ts4sError as exc:
            log.debug("objects of the control channel stay until the version's end: %s", exc)

    def __enter__(self) -> RemoteControl:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _beat(self) -> None:
        beat = 0
        while not self._closed.wait(beat_every_s(self._timeout_s)):
            beat += 1
            try:
                self._mailbox.write_sign(beat=beat, ended=self.failed.is_set())
            except Ts4sError as exc:
                log.debug("no sign of life could be written: %s", exc)

    def _listen(self) -> None:
        while not self._closed.wait(min(_POLL_S, beat_every_s(self._timeout_s))):
            try:
                if self._take_events():
                    continue
            except StoreError as exc:
                log.debug("no news of the training: %s", exc)
            now = time.monotonic()
            if self._heard is None and now > self._connect_deadline:
                self.fail(WorkerLostError(f"Workers did not report in time: expected {self.world_size}, got none"))
            elif self._heard is not None and now - self._heard > self._timeout_s + beat_every_s(self._timeout_s):
                expected = f"expected one within train.timeout_s {self._timeout_s:g}"
                self.fail(
                    WorkerLostError(f"Worker 0 left no sign of life in the store for {now - self._heard:.0f} s: {expected}")
                )

    def _take_events(self) -> bool:
        """Take the next list of events; whether there was one."""
        with self._reading:
            events = self._mailbox.take_events(self._read)
            if events is None:
                return False
            self._read += 1
            self._heard = time.monotonic()
            for event in events:
                self._take(event)
            return True

    def _take(self, event: Event) -> None:
        match event:
            case Joined():
                info = WorkerInfo(event.rank, event.host, event.pid, event.address)
                with self._lock:
                    self._workers[event.rank] = info
            case Said():
                log.log(event.level, "%s", event.text)
            case Progressed():
                self._follow(event.rank, event.message)
            case Failed():
                self.fail(event.raised())
