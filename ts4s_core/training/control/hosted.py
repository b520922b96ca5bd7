"""The control server in rank 0's process, for a client that workers cannot connect to.

Ranks tell each other its address, its certificate's fingerprint and its secret by a gathering that the cluster itself offers.
What the server hears goes to the client by the store, and so do the client's signs of life come; without them the attempt ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.errors import SettingsError, StoreError, Ts4sError, WorkerLostError, from_wire, to_wire
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.channel import beat_every_s
from ts4s_core.training.control.mailbox import Event, Joined, MailAddress, Mailbox, Progressed, Said
from ts4s_core.training.control.messages import Failed, Progressing, Result
from ts4s_core.training.control.server import ControlServer, WorkerInfo
from ts4s_core.training.job import TrainJob

log = logging.getLogger(__name__)

#: Longest time that a failure's way into the store may hold up what follows on it.
_LAST_WORDS_S = 5.0

#: Everybody's text, in rank order; every rank calls it.
Gather = Callable[[str], list[str]]


@dataclass(frozen=True)
class _Told:
    """What a rank tells the others: the server's address (rank 0), or why it cannot take part."""

    control: str = ""
    problem: dict[str, str] | None = None


@contextlib.contextmanager
def hosted_control(
    job: TrainJob, mail: MailAddress, *, rank: int, world_size: int, address: str, gather: Gather
) -> Iterator[ControlAddress]:
    """The control server of an attempt, while this rank works; in rank 0's process it runs here.

    Args:
        job: the attempt, with the store's secrets.
        mail: where the client is heard of.
        rank: this worker's number.
        world_size: number of workers.
        address: the interface by which the others reach this worker.
        gather: everybody's text.

    Raises:
        SettingsError: on every rank, if the store of one of them is not the client's.
        Ts4sError: on every rank, if the server cannot listen, or the store fails.
    """
    storage = Storage.open(job.storage_settings())
    reporter: _Reporter | None = None
    try:
        Mailbox(storage, mail).read_sign()
        if rank == 0:
            reporter = _Reporter(Mailbox(storage, mail), job, world_size=world_size, address=address)
        told = _Told(control=reporter.server.address.to_wire() if reporter else "")
    except Ts4sError as exc:
        told = _Told(problem=to_wire(exc))
    everybody = [_Told(**json.loads(text)) for text in gather(json.dumps(vars(told)))]
    problem = next((one.problem for one in everybody if one.problem is not None), None)
    if problem is not None:
        if reporter is not None:
            reporter.server.close()
        raise from_wire(problem)
    if reporter is None:
        yield ControlAddress.from_wire(everybody[0].control)
        return
    with reporter:
        yield reporter.server.address


class _Reporter:
    """Rank 0's server, and the thread that writes what it hears and reads whether the client lives.

    It is the server's witness: see :class:`ts4s_core.training.control.server.Witness`.
    """

    def __init__(self, mailbox: Mailbox, job: TrainJob, *, world_size: int, address: str) -> None:
        self._mailbox = mailbox
        self._timeout_s = job.timeout_s
        self._events: list[Event] = []
        self._written = 0
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._report, name="control-reports", daemon=True)
        self.server = ControlServer(
            address,
            world_size=world_size,
            timeout_s=job.timeout_s,
            listener=self._follow,
            witness=self,
            store_secrets=job.secrets,
        )

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # Its connections go with this process: the others may still be on their last messages.
        deadline = time.monotonic() + self._timeout_s
        while error is None and not self.server.finished and self.server.failure is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self._closed.set()
        self._thread.join(_LAST_WORDS_S)
        self._write_in_time()
        self.server.close()

    def joined(self, worker: WorkerInfo) -> None:
        """A worker has connected."""
        self._add(Joined(**vars(worker)))

    def said(self, level: int, text: str) -> None:
        """A line for the client's log."""
        self._add(Said(level=level, text=text))

    def failing(self, error: Ts4sError) -> None:
        """The attempt fails; this process may end as soon as this returns."""
        self._add(Failed.by(error))
        self._write_in_time()

    def _follow(self, rank: int, message: Progressing) -> None:
        if not isinstance(message, Result):  # results come back as rows
            self._add(Progressed(rank=rank, message=message))

    def _add(self, event: Event) -> None:
        with self._adding:
            self._events.append(event)

    def _report(self) -> None:
        every_s = beat_every_s(self._timeout_s)
        beat, heard = -1, time.monotonic()
        while not self._closed.wait(every_s):
            try:
                sign = self._mailbox.read_sign()
                if sign.ended:
                    self.server.fail(WorkerLostError("The client ended the attempt"))
                    return
                if sign.beat != beat:
                    beat, heard = sign.beat, time.monotonic()
                self._write()  # even if there is nothing to say: that is a sign of life
            except SettingsError:  # another run has taken away what was begun
                self.server.fail(WorkerLostError("The client left, and what it had begun is gone"))
                return
            except StoreError as exc:
                log.debug("no news of the client: %s", exc)
            if time.monotonic() - heard > self._timeout_s:
                silent_s = time.monotonic() - heard
                self.server.fail(WorkerLostError(f"The client gave no sign of life in the store for {silent_s:.0f} s"))
                return

    def _write(self) -> None:
        with self._writing:
            self._mailbox.read_sign()  # nothing is written where a client has cleaned up
            with self._adding:
                events, self._events = self._events, []
            try:
                self._mailbox.write_events(self._written, events)
            except Ts4sError:
                with self._adding:
                    self._events = events + self._events
                raise
            self._written += 1

    def _write_in_time(self) -> None:
        """Write what there is to say, however long the store takes."""

        def write() -> None:
            try:
                self._write()
            except Ts4sError as exc:
                log.debug("the client is not told: %s", exc)

        thread = threading.Thread(target=write, name="control-last-report", daemon=True)
        thread.start()
        thread.join(_LAST_WORDS_S)
