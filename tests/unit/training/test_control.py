from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import socket
import threading
import time
from types import TracebackType
from typing import Any

import pytest
from control_peers import RawWorker, server_process, worker_process

from ts4s_core.errors import NonFiniteError, TrainingError, WorkerLostError
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.channel import Channel
from ts4s_core.training.control.client import ABORTED, ControlClient, LogToDriver
from ts4s_core.training.control.identity import client_context
from ts4s_core.training.control.messages import Gather, Progressing, Result, WorkerResult, encoded
from ts4s_core.training.control.server import ControlServer
from ts4s_core.training.job import TrainJob


class Tap:
    """A cable to a port that keeps what passes."""

    def __init__(self, port: int) -> None:
        self.kept = b""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._target = port
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        here, _peer = self._server.accept()
        there = socket.create_connection(("127.0.0.1", self._target))
        self._open += [here, there]
        for source, target in ((here, there), (there, here)):
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                with self._lock:
                    self.kept += data
                target.sendall(data)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for each in (self._server, *self._open):
            each.close()


@pytest.fixture
def heard() -> list[tuple[int, Progressing]]:
    return []


def serve(heard: list, **options: Any) -> ControlServer:
    values = {"host": "127.0.0.1", "world_size": 2, "timeout_s": 30.0} | options
    return ControlServer(listener=lambda rank, message: heard.append((rank, message)), **values)


def test_warnings_of_workers_are_the_drivers(heard, caplog):
    with serve(heard, world_size=1) as server:
        client = ControlClient(server.address, rank=0, own_address="127.0.0.1")
        handler = LogToDriver(client)
        own = logging.getLogger("ts4s_core.training.checkpoints.writer")
        own.addHandler(handler)
        try:
            own.warning("checkpoint of step %d\nwas not written", 7)
            logging.getLogger("ts4s_core.training.checkpoints.writer").error("told by other ways")
        finally:
            own.removeHandler(handler)
        client.done(WorkerResult(rank=0, steps=3), timeout_s=10)
        assert server.finished
    forwarded = [
        record.getMessage()
        for record in caplog.records
        if record.name == "ts4s_core.training.control.server" and record.levelno >= logging.WARNING
    ]
    assert forwarded == [f"worker 0 on {socket.gethostname()}: checkpoint of step 7 was not written"]
    assert heard == [(0, Result(result=WorkerResult(rank=0, steps=3)))]


def test_values_are_gathered_in_rank_order_and_results_arrive(heard):
    with serve(heard) as server:
        clients = [ControlClient(server.address, rank=rank, own_address="127.0.0.1") for rank in (1, 0)]
        answers: dict[int, list] = {}
        threads = [
            threading.Thread(
                target=lambda client=client, value=value: answers.update({value: client.gather("k", value, timeout_s=10)})
            )
            for client, value in zip(clients, (11, 10), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == {10: [10, 11], 11: [10, 11]}
        assert {rank: info.host for rank, info in server.workers().items()} == dict.fromkeys((0, 1), socket.gethostname())
        for rank, client in zip((1, 0), clients, strict=True):
            client.done(WorkerResult(rank=rank, steps=3), timeout_s=10)
        assert server.finished
        assert server.failure is None
    assert heard == [(rank, Result(result=WorkerResult(rank=rank, steps=3))) for rank in (1, 0)]


def test_a_silent_worker_fails_the_attempt_and_the_others_are_told(heard):
    with serve(heard, timeout_s=0.5, world_size=1) as server:
        with RawWorker(server.address, 0) as worker:
            assert worker.hear() == {"type": "welcome", "timeout_s": 0.5, "store_secrets": {}}
            assert worker.hear() == {"type": "abort"}
            assert worker.hear() is None
        assert isinstance(server.failure, WorkerLostError)
        assert "Worker 0 on elsewhere (pid 7) was silent" in str(server.failure)
        assert server.failed.wait(5)


def test_a_lost_connection_fails_the_attempt(heard):
    with serve(heard) as server:
        with RawWorker(server.address, 1):
            pass
        assert server.failed.wait(10)
        assert "Worker 1 on elsewhere (pid 7) died" in str(server.failure)


def test_a_workers_own_error_comes_before_its_death(heard):
    with serve(heard) as server:
        with RawWorker(server.address, 0) as worker:
            worker.say(type="error", error={"type": "NonFiniteError", "message": "step 3"})
        assert server.failed.wait(10)
        assert isinstance(server.failure, NonFiniteError)


def test_strangers_and_late_comers_are_turned_away(heard):
    with serve(heard) as server:
        with RawWorker(server.address, 0, secret="wrong") as stranger:
            assert stranger.hear() is None
        with RawWorker(server.address, 0, padding="x" * 5_000) as talker:
            assert talker.hear() is None
        with RawWorker(server.address, 2) as surplus:
            assert surplus.hear() == {"type": "abort"}
        assert server.workers() == {}
        assert server.failure is None


JUNK = (b"\n", b"[" * 60_000 + b"\n", b'{"secret": "\xc3\xa9"}\n', b'{"secret": 1}\n', b"\x16\x03\x01\x00\xff" + b"\0" * 255)


def test_junk_is_one_line_and_no_traceback(heard, caplog, capfd):
    with serve(heard, world_size=1) as server:
        for junk in JUNK:
            with socket.create_connection((server.address.host, server.address.port), timeout=10) as stranger:
                with contextlib.suppress(OSError):  # shut before all was said
                    stranger.sendall(junk)
                    stranger.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(1_000)[:1] in (b"", b"\x15")  # the end, or an alert of TLS
        # The same from somebody who does speak TLS.
        for junk in JUNK[:-1]:
            connection = socket.create_connection((server.address.host, server.address.port), timeout=10)
            channel = Channel(connection, client_context(), server_side=False, deadline=time.monotonic() + 10)
            with contextlib.suppress(ConnectionError):
                channel.send(junk, deadline=time.monotonic() + 10)
                assert channel.receive(deadline=time.monotonic() + 10) == b""
            channel.close()
        client = ControlClient(server.address, rank=0, own_address="127.0.0.1")
        client.done(WorkerResult(rank=0, steps=1), timeout_s=10)
        assert server.finished
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert warned[0].startswith("a connection from 127.0.0.1 to control was rejected: ")
    assert "Traceback" not in capfd.readouterr().err


def test_dripping_strangers_use_up_no_descriptors_and_keep_no_worker_out():
    with server_process(30, descriptors=100) as (_driver, address), contextlib.ExitStack() as stack:
        flood = threading.Event()

        def drip() -> None:
            strangers: list[socket.socket] = []
            while not flood.is_set():
                with contextlib.suppress(OSError):
                    strangers.append(stack.enter_context(socket.create_connection((address.host, address.port), timeout=5)))
                for stranger in strangers[-200:]:
                    with contextlib.suppress(OSError):
                        stranger.send(b" ")
                flood.wait(0.005)

        thread = threading.Thread(target=drip)
        thread.start()
        time.sleep(1.5)  # some 300 strangers, three times the descriptors
        with worker_process(address, 0) as first, worker_process(address, 1) as second:
            flood.set()
            thread.join(15)
            assert (first.poll(), second.poll()) == (None, None)


def test_nobody_on_the_way_reads_what_is_said(heard):
    """Everything that passes between the ends is kept: no secret is in it."""
    with serve(heard, world_size=1, store_secrets={"secret": "STORE-KEY"}) as server, Tap(server.address.port) as tap:
        address = dataclasses.replace(server.address, port=tap.port)
        client = ControlClient(address, rank=0, own_address="10.11.12.13")
        assert client.store_secrets == {"secret": "STORE-KEY"}
        assert client.gather("k", "a value of mine", timeout_s=10) == ["a value of mine"]
        client.done(WorkerResult(rank=0, steps=1), timeout_s=10)
        assert server.workers()[0].address == "10.11.12.13"
    assert len(tap.kept) > 1_000
    for said in (address.secret, "STORE-KEY", "a value of mine", "10.11.12.13", "welcome"):
        assert said.encode() not in tap.kept


def test_who_answers_in_the_drivers_place_is_told_nothing(heard):
    with serve(heard, world_size=1) as server, serve(heard, world_size=1) as impostor:
        address = dataclasses.replace(server.address, port=impostor.address.port)
        with pytest.raises(WorkerLostError, match=r"answers at 127\.0\.0\.1:\d+ is not this run's driver: another cert"):
            ControlClient(address, rank=0, own_address="127.0.0.1")
        assert impostor.workers() == {}
        with pytest.raises(WorkerLostError, match="is not this run's driver"):
            ControlClient(ControlAddress(address.host, server.address.port, address.secret), rank=0, own_address="127.0.0.1")
    with pytest.raises(WorkerLostError, match=r"Rank 0 cannot reach the driver at 127\.0\.0\.1:\d+: .*refused"):
        ControlClient(server.address, rank=0, own_address="127.0.0.1")


def test_what_is_too_large_fails_by_name(heard):
    too_large = r"Message gather 'k' of the control channel is too large: expected at most 64 MiB, got 70\."
    with serve(heard) as server:
        with pytest.raises(TrainingError, match=too_large):
            encoded(Gather(key="k", value="x" * (70 * 2**20)))
        with RawWorker(server.address, 0) as first, RawWorker(server.address, 1) as second:
            for worker in (first, second):  # each is within the limit, and both are not
                worker.say(type="gather", key="many", value="x" * (35 * 2**20))
            assert server.failed.wait(30)
        assert str(server.failure).startswith("Message gathered 'many' of the control channel is too large")


def test_a_worker_that_takes_nothing_holds_up_nobody(heard):
    """A stopped process with more than its socket holds on the way to it: the failure is noted, and the others are told."""
    with serve(heard, timeout_s=3) as server, worker_process(server.address, 0, brings=8_000_000) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        with RawWorker(server.address, 1) as worker:
            assert worker.hear()["type"] == "welcome"
            worker.say(type="gather", key="k", value="x" * 8_000_000)
            began = time.monotonic()
            while (message := worker.hear()) is not None and message["type"] == "gathered":
                worker.say(type="beat", step=1)
            assert message == {"type": "abort"}
            assert time.monotonic() - began < 3 + 5
        assert server.failed.wait(5)
        assert isinstance(server.failure, WorkerLostError)
        assert f"Worker 0 on {socket.gethostname()} (pid {stopped.pid}) " in str(server.failure)


@pytest.mark.parametrize("stopped", [False, True])
def test_an_orphan_ends_within_the_timeout(stopped: bool):
    """A driver that is stopped keeps its connections, as a host that was cut off does; one that is killed ends them."""
    timeout_s = 3.0
    with server_process(timeout_s) as (driver, address), worker_process(address, 0) as worker:
        began = time.monotonic()
        driver.send_signal(signal.SIGSTOP if stopped else signal.SIGKILL)
        assert worker.wait(30) == ABORTED
        seconds = time.monotonic() - began
        assert seconds < timeout_s + 1.5  # what a loaded machine may be late by
        assert not stopped or seconds > timeout_s / 2


@pytest.mark.parametrize(
    ("host", "bind"), [("127.0.0.1", ""), ("::1", ""), ("[::1]", "::"), ("localhost", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")]
)
def test_every_way_to_name_an_interface(heard, host: str, bind: str):
    with serve(heard, world_size=1, host=host, bind=bind) as server:
        client = ControlClient(server.address, rank=0, own_address="127.0.0.1")
        client.done(WorkerResult(rank=0, steps=1), timeout_s=10)
        assert server.finished


def test_an_interface_of_another_host_is_refused_by_name(heard):
    with pytest.raises(TrainingError, match=r"cannot listen on 192\.0\.2\.1: .*spark\.driver\.bindAddress"):
        serve(heard, host="10.0.0.1", bind="192.0.2.1")


def test_workers_that_never_come_are_named(heard):
    with serve(heard, timeout_s=0.3, connect_limit_s=0.3) as server:
        assert server.failed.wait(10)
        assert "Workers [0, 1] did not report in time" in str(server.failure)


def test_jobs_and_addresses_cross_as_json_and_hide_secrets():
    job = TrainJob(
        name="demo",
        key="ab",
        dataset="dataset/a/b",
        model="model/a/b",
        output="trained/a/b",
        task="classification",
        train={"batch_size": 8},
        storage={"uri": "s3://b", "key": "KEY", "secret": "HUSH"},
    )
    assert TrainJob.from_wire(job.to_wire()) == job
    assert job.settings.batch_size == 8
    assert job.storage_settings().secret.get_secret_value() == "HUSH"  # type: ignore[union-attr]
    assert "HUSH" not in repr(job)
    assert job.secrets == {"key": "KEY", "secret": "HUSH"}
    sent = job.without_secrets()
    assert {"KEY", "HUSH"}.isdisjoint(sent.to_wire().split('"'))
    assert TrainJob.from_wire(sent.to_wire()).with_secrets(job.secrets) == job
    address = ControlAddress("127.0.0.1", 1, "HUSH", "ab" * 32)
    assert ControlAddress.from_wire(address.to_wire()) == address
    assert "HUSH" not in repr(address)
