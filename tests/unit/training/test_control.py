from __future__ import annotations

import json
import logging
import socket
import threading

import pytest

from ts4s_core.errors import NonFiniteError, WorkerLostError
from ts4s_core.training.control.address import ControlAddress
from ts4s_core.training.control.client import ControlClient, LogToDriver
from ts4s_core.training.control.messages import Progressing, Result, WorkerResult
from ts4s_core.training.control.server import ControlServer
from ts4s_core.training.job import TrainJob


@pytest.fixture
def heard() -> list[tuple[int, Progressing]]:
    return []


def serve(heard: list, **options: float) -> ControlServer:
    values = {"world_size": 2, "timeout_s": 30.0} | options
    return ControlServer("127.0.0.1", listener=lambda rank, message: heard.append((rank, message)), **values)  # type: ignore[arg-type]


def speak(server: ControlServer, rank: int, *, secret: str | None = None) -> socket.socket:
    """A worker that never beats."""
    connection = socket.create_connection((server.address.host, server.address.port), timeout=10)
    hello = {"secret": secret or server.address.secret, "rank": rank, "host": "elsewhere", "pid": 7, "address": "10.0.0.9"}
    connection.sendall(json.dumps(hello).encode() + b"\n")
    return connection


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
    called = threading.Event()
    with serve(heard, timeout_s=0.5, world_size=1) as server:
        server.on_failure(called.set)
        with speak(server, 0) as worker:
            assert json.loads(worker.makefile().readline()) == {"type": "abort"}
        assert isinstance(server.failure, WorkerLostError)
        assert "Worker 0 on elsewhere (pid 7) was silent" in str(server.failure)
        assert called.wait(5)


def test_a_lost_connection_fails_the_attempt(heard):
    with serve(heard) as server:
        speak(server, 1).close()
        assert server.failed.wait(10)
        assert "Worker 1 on elsewhere (pid 7) died" in str(server.failure)


def test_a_workers_own_error_comes_before_its_death(heard):
    with serve(heard) as server:
        with speak(server, 0) as worker:
            worker.sendall(b'{"type": "error", "error": {"type": "NonFiniteError", "message": "step 3"}}\n')
        assert server.failed.wait(10)
        assert isinstance(server.failure, NonFiniteError)


def test_strangers_and_late_comers_are_turned_away(heard):
    with serve(heard) as server:
        for secret, rank in (("wrong", 0), (None, 2)):
            with speak(server, rank, secret=secret) as stranger:
                assert stranger.recv(1) == b""
        assert server.workers() == {}
        assert server.failure is None


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
    address = ControlAddress("127.0.0.1", 1, "HUSH")
    assert ControlAddress.from_wire(address.to_wire()) == address
    assert "HUSH" not in repr(address)
