"""The control server in rank 0's process and its client, who know each other by objects in a store alone."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_peers import RawWorker
from toy import step_row
from waiting import wait_for

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.writer import ArtifactWriter
from ts4s_core.errors import NonFiniteError, SettingsError, Ts4sError, WorkerLostError, to_wire
from ts4s_core.training.control.hosted import hosted_control
from ts4s_core.training.control.messages import Progressing, Result, Started, Stepped, WorkerResult
from ts4s_core.training.control.remote import REFUSED, RemoteControl
from ts4s_core.training.job import TrainJob, storage_to_wire

LIMIT_S = 30


@pytest.fixture
def writer(store: ArtifactStore) -> Iterator[ArtifactWriter]:
    with contextlib.closing(_Abandoned(store.begin("trained", "toy", "ab" * 32, settings={}, upstream={}))) as begun:
        yield begun.writer


@dataclasses.dataclass
class _Abandoned:
    writer: ArtifactWriter

    def close(self) -> None:
        self.writer.abandon()


def job_of(store: ArtifactStore, writer: ArtifactWriter, *, timeout_s: float = 60) -> TrainJob:
    return TrainJob(
        name="toy",
        key="0",
        dataset="",
        model="",
        output=str(writer.ref),
        task="classification",
        train={"timeout_s": timeout_s},
        storage=storage_to_wire(store.storage.settings),
    )


class Ranks:
    """Two ranks in threads, who gather as a barrier stage's tasks do; each does ``work`` with its connection."""

    def __init__(self, job: TrainJob, client: RemoteControl, work: Callable[[int, RawWorker], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.errors: list[Ts4sError] = []
        self._job, self._client, self._work = job, client, work
        self._barrier = threading.Barrier(2)
        self._texts = ["", ""]
        self._threads = [threading.Thread(target=self._run, args=(rank,), daemon=True) for rank in range(2)]
        for thread in self._threads:
            thread.start()

    def _gather(self, rank: int, text: str) -> list[str]:
        self._texts[rank] = text
        self._barrier.wait(LIMIT_S)
        return list(self._texts)

    def _run(self, rank: int) -> None:
        gather = lambda text: self._gather(rank, text)  # noqa: E731
        try:
            with (
                hosted_control(
                    self._job, self._client.mail, rank=rank, world_size=2, address="127.0.0.1", gather=gather
                ) as control,
                RawWorker(control, rank) as worker,
            ):
                assert worker.hear()["type"] == "welcome"
                self._work(rank, worker)
            self.rows.append({"rank": rank, "steps": 3})
        except Ts4sError as exc:
            self.errors.append(exc)
            self.rows.append({REFUSED: to_wire(exc)})

    def join(self) -> None:
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_steps_notes_and_results_reach_a_client_that_nobody_connects_to(store, writer, caplog):
    caplog.set_level("INFO")
    heard: list[tuple[int, Progressing]] = []

    def work(rank: int, worker: RawWorker) -> None:
        worker.say(type="note", message=f"rank {rank} is well")
        if rank == 0:
            worker.say(type="start", step=0, steps=3)
            worker.say(type="metrics", rows=[dataclasses.asdict(step_row(1))])
        worker.say(type="done")
        assert worker.hear() == {"type": "bye"}

    job = job_of(store, writer)
    with RemoteControl(job, world_size=2, listener=lambda rank, message: heard.append((rank, message))) as client:
        ranks = Ranks(job, client, work)
        ranks.join()
        assert not client.finished
        client.take(ranks.rows)
        assert (client.finished, client.failure) == (True, None)
        assert {rank: worker.host for rank, worker in client.workers().items()} == {0: "elsewhere", 1: "elsewhere"}
    results = [(rank, Result(result=WorkerResult(rank=rank, steps=3))) for rank in (0, 1)]
    assert heard == [(0, Started(step=0, steps=3)), (0, Stepped(rows=[step_row(1)])), *results]
    notes = [record.getMessage() for record in caplog.records if record.name.endswith("control.remote")]
    assert sorted(notes) == ["worker 0 on elsewhere: rank 0 is well", "worker 1 on elsewhere: rank 1 is well"]
    assert not [entry for entry in store.storage.list(temporary=True) if "control-" in entry.path]


def test_a_failure_is_the_clients_before_any_worker_is_told(store, writer):
    told: list[float] = []

    def work(rank: int, worker: RawWorker) -> None:
        assert wait_for(lambda: len(client.workers()) == 2)
        if rank == 1:
            worker.say(type="error", error=to_wire(NonFiniteError("Loss of step 3 is nan")))
        assert worker.hear() == {"type": "abort"}
        told.append(time.monotonic())
        client.drain()
        assert isinstance(client.failure, NonFiniteError)

    job = job_of(store, writer)
    with RemoteControl(job, world_size=2, listener=lambda rank, message: None) as client:
        ranks = Ranks(job, client, work)
        assert client.failed.wait(LIMIT_S)
        assert str(client.failure) == "Loss of step 3 is nan"
        ranks.join()
    assert len(told) == 2


def test_another_store_is_refused_by_name_on_every_rank_and_nothing_is_left(store, writer, tmp_path: Path):
    job = job_of(store, writer)
    elsewhere = dataclasses.replace(job, storage={**job.storage, "uri": str(tmp_path / "elsewhere")})
    with RemoteControl(job, world_size=2, listener=lambda rank, message: None) as client:
        ranks = Ranks(elsewhere, client, lambda rank, worker: None)
        ranks.join()
        with pytest.raises(SettingsError) as caught:
            client.take(ranks.rows)
    assert str(caught.value).startswith(f"storage.uri {tmp_path / 'elsewhere'} is not the same store for the cluster's workers")
    assert len(ranks.errors) == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("how", ["silent", "ended", "cleaned up"])
def test_without_its_client_an_attempt_ends(store, writer, how: str):
    ended: dict[int, float] = {}

    def work(rank: int, worker: RawWorker) -> None:
        stop = threading.Event()

        def beat() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    worker.say(type="beat", step=1)

        threading.Thread(target=beat, daemon=True).start()
        assert worker.hear() == {"type": "abort"}
        stop.set()
        ended[rank] = time.monotonic()

    timeout_s = 2.0 if how == "silent" else 60.0
    job = job_of(store, writer, timeout_s=timeout_s)
    client = RemoteControl(job, world_size=2, listener=lambda rank, message: None)
    ranks = Ranks(job, client, work)
    assert wait_for(lambda: len(client.workers()) == 2)
    left = time.monotonic()
    if how == "ended":
        client.fail(WorkerLostError("slots were lost"))
        client.close()
    else:
        client._closed.set()  # as if its process were gone
        if how == "cleaned up":
            for _again in range(20):  # the last beat may be on its way
                client._mailbox.remove()
                time.sleep(0.02)
    ranks.join()
    assert set(ended) == {0, 1}
    assert max(ended.values()) - left < (2 * timeout_s + 10 if how == "silent" else LIMIT_S)
    client._mailbox.remove()
