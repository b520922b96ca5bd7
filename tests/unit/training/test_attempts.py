"""Which failures are worth another attempt."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from control_peers import RawWorker
from toy import step_row

from ts4s_core.errors import (
    ConflictError,
    IntegrityError,
    NonFiniteError,
    SlotsError,
    SparkError,
    Ts4sError,
    WorkerFailedError,
    WorkerLostError,
)
from ts4s_core.sockets import Interface
from ts4s_core.training.control.messages import Started, Stepped
from ts4s_core.training.control.server import ControlServer, Follow
from ts4s_core.training.driver.attempts import Attempts
from ts4s_core.training.driver.launcher import control_here
from ts4s_core.training.driver.metrics import Metrics
from ts4s_core.training.job import TrainJob
from ts4s_core.training.worker.worker import _unforeseen


@dataclasses.dataclass
class Failing:
    """A launcher whose attempts fail one after the other, each after some steps; then one that ends well."""

    failures: list[tuple[Ts4sError, int]]
    metrics: Metrics
    free: int = 2
    attempts: int = 0
    world_sizes: list[int] = dataclasses.field(default_factory=list)

    def control(self, job: TrainJob, *, world_size: int, listener: Follow) -> ControlServer:
        return control_here(Interface("127.0.0.1"), job, world_size=world_size, listener=listener)

    def slots(self) -> int:
        return self.free

    def run(self, job: TrainJob, *, world_size: int, control: ControlServer) -> None:
        self.attempts += 1
        self.world_sizes.append(world_size)
        error, step = self.failures.pop(0)
        if step:
            self.metrics.listen(0, Started(step=0, steps=9))
            self.metrics.listen(0, Stepped(rows=[step_row(step)]))
        raise error


def attempts_until(store, failures: list[tuple[Ts4sError, int]]) -> tuple[int, Ts4sError]:
    launcher, error = failing(store, failures)
    return launcher.attempts, error


def failing(store, failures: list[tuple[Ts4sError, int]], *, free: int = 2, **options: Any) -> tuple[Failing, Ts4sError]:
    metrics = Metrics(lambda stage, fields: None)
    launcher = Failing(failures, metrics, free)
    job = TrainJob(
        name="toy", key="ab" * 32, dataset="", model="", output="", task="classification", train={}, storage={"uri": "nowhere"}
    )
    attempts = Attempts(job, store, launcher, metrics=metrics, workers=2, max_restarts=5, **options)
    with pytest.raises(Ts4sError) as caught:
        attempts.run()
    assert attempts.restarts == launcher.attempts - 1
    return launcher, caught.value


def failed(worker: int, step: int, why: str = "ValueError: odd") -> WorkerFailedError:
    return WorkerFailedError(f"Worker {worker} on host failed in step {step}: {why}")


def test_the_same_error_at_the_same_step_is_not_tried_a_third_time(store):
    # Another rank may be the one that tells it.
    attempts, error = attempts_until(store, [(failed(0, 7), 6), (failed(1, 7), 6), (failed(0, 7), 6)])
    assert (attempts, str(error)) == (2, "Worker 1 on host failed in step 7: ValueError: odd")
    attempts, _ = attempts_until(store, [(failed(0, 7), 6), (failed(0, 8), 7), (failed(0, 9), 8), (failed(0, 9), 8)])
    assert attempts == 4
    same = SparkError("training attempt failed in Spark: ModuleNotFoundError: No module named 'torch'")
    assert attempts_until(store, [(same, 0)] * 3)[0] == 2


def test_deaths_are_tried_again_however_often_they_come(store):
    death = WorkerLostError("Worker 0 on host (pid 5) died: its connection ended")
    attempts, error = attempts_until(store, [(death, 3)] * 6)
    assert (attempts, error) == (6, death)


@pytest.mark.parametrize(
    "error", [NonFiniteError("Loss of step 3 is nan"), IntegrityError("damaged"), SlotsError("expected 4 task slots, got 2")]
)
def test_what_cannot_be_mended_is_not_tried_again(store, error):
    assert attempts_until(store, [(error, 0)] * 2) == (1, error)


def test_a_version_that_was_taken_away_is_not_trained_into_again(store):
    """Another attempt would train to the end and fail there; a checkpoint that was taken away is another one's next time."""
    late = ConflictError("File 'model.safetensors' comes too late")
    writer = store.begin("trained", "toy", "ab" * 32, settings={}, upstream={})
    assert failing(store, [(late, 3), (late, 4), (IntegrityError("x"), 5)], check_output=writer.check)[0].attempts == 3
    store.storage.delete_tree(store.storage.stage(str(writer.ref)))
    launcher, error = failing(store, [(late, 3), (late, 4)], check_output=writer.check)
    assert (launcher.attempts, error) == (1, late)


def test_slots_that_went_while_training_are_waited_for(store):
    lost = WorkerLostError("Worker 0 on host (pid 5) died")
    few = SlotsError("expected 2 task slots, got 1")
    assert attempts_until(store, [(lost, 3), (few, 3), (lost, 3), (IntegrityError("x"), 3)])[0] == 4


def test_a_slot_that_came_late_and_went_for_good_is_done_without(store):
    """Counted when one of two executors was there; both trained; one is left."""
    lost = WorkerLostError("Worker 0 on host (pid 5) died")
    few = SlotsError("expected 2 task slots, got 1")
    launcher, _ = failing(store, [(lost, 3), (few, 3), (IntegrityError("x"), 3)], free=1)
    assert launcher.world_sizes == [2, 2, 1]
    # Where nobody refuses, more workers than cores may be wanted.
    launcher, _ = failing(store, [(lost, 3), (lost, 3), (IntegrityError("x"), 3)], free=1)
    assert launcher.world_sizes == [2, 2, 2]


def test_unforeseen_errors_say_where_and_memory_what_to_do():
    job = TrainJob(
        name="toy", key="", dataset="", model="", output="", task="classification", train={"batch_size": 64}, storage={"uri": "x"}
    )
    torchs = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
    for memory in (torchs, MemoryError("Unable to allocate 3 GiB")):
        error = _unforeseen(memory, job, rank=1, step=5)
        assert type(error).__name__ == "TrainingError"
        assert "ran out of memory in step 5: train.batch_size 64 in 4 parts" in str(error)
    other = _unforeseen(KeyError("x"), job, rank=1, step=5)
    assert isinstance(other, WorkerFailedError)
    assert str(other).endswith("failed in step 5: KeyError: 'x'")


class Reading(Failing):
    """What a launcher sends to workers, and what the control server then tells one of them."""

    def run(self, job: TrainJob, *, world_size: int, control: ControlServer) -> None:
        self.sent = job.to_wire() + control.address.to_wire()
        with RawWorker(control.address, 0) as worker:
            self.told = worker.hear()
        raise NonFiniteError("enough")


def test_the_stores_keys_reach_workers_over_the_control_channel_alone(store):
    launcher = Reading([], Metrics(lambda stage, fields: None))
    storage = {"uri": "s3://bucket", "key": "AKIA-ID", "secret": "HUSH", "region": "eu-west-1"}
    job = TrainJob(
        name="toy", key="ab" * 32, dataset="", model="", output="", task="classification", train={"timeout_s": 9}, storage=storage
    )
    with pytest.raises(NonFiniteError):
        Attempts(job, store, launcher, metrics=launcher.metrics, workers=1, max_restarts=0).run()
    assert "eu-west-1" in launcher.sent
    assert "AKIA-ID" not in launcher.sent
    assert "HUSH" not in launcher.sent
    assert launcher.told == {"type": "welcome", "timeout_s": 9.0, "store_secrets": {"key": "AKIA-ID", "secret": "HUSH"}}
