"""Seeded faults of trainings over Spark Connect: of the client, of workers, of the server.

``make test-faults POINTS=20 OF=connect_points`` runs the points that ``connect_results.json`` does not have yet. Each ends with
the weights of a run in plain processes, by itself or by the same command again, and leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from connect_server import connect_server
from connect_training import LONG, Prepared, run_until, training_workers
from fault_leftovers import left_in_stores
from waiting import wait_for

from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.artifacts.upkeep.verify import verify_version
from ts4s_core.errors import SparkError, TrainingError
from ts4s_core.processes import is_living
from ts4s_core.spark.driver.client import SparkProgram
from ts4s_core.training.facts import TrainedFacts

POINTS, SEED = int(os.environ.get("FAULT_POINTS") or 6), int(os.environ.get("FAULT_SEED") or 0)
RESULTS = Path(os.environ.get("FAULT_RESULTS") or Path(__file__).with_name("connect_results.json"))
KINDS = ("client-kill", "client-stop", "server-kill", "worker-kill", "worker-stop", "workers-kill")
#: Longer than anybody waits for a sign of life.
STOPPED_S = 3.0 * LONG["timeout_s"]
TRIES = 3
#: The last step that is drawn: news of it comes by the store, and a fast host needs 5 ms for each of those that are left.
LAST = LONG["max_steps"] - 400
#: A client that is stopped is missed before training is over: it is soon, and workers wait for less long.
LAST_OF_A_STOPPED_CLIENT, TIMEOUT_OF_A_STOPPED_CLIENT_S = 50, 2
#: Longest time for a command that a fault ends: far below the ten minutes for which Spark's client asks a server that is gone.
ENDED_WITHIN_S = 300.0


@dataclass(frozen=True)
class Point:
    """One fault: its kind, the step that was shown before it, and which of the workers it is."""

    seed: int
    index: int
    kind: str
    step: int
    victim: int

    @classmethod
    def draw(cls, seed: int, index: int) -> Point:
        """Every kind comes once in six points of a seed."""
        cycle, place = divmod(index, len(KINDS))
        order = random.Random(f"connect/{seed}/{cycle}").sample(KINDS, len(KINDS))
        choice = random.Random(f"connect/{seed}/{index}/point")
        kind = order[place]
        last = LAST_OF_A_STOPPED_CLIENT if kind == "client-stop" else LAST
        return cls(seed, index, kind, choice.randint(1, last), choice.randrange(2))

    @property
    def train(self) -> dict[str, Any]:
        """Settings of the training."""
        return LONG | ({"timeout_s": TIMEOUT_OF_A_STOPPED_CLIENT_S} if self.kind == "client-stop" else {})

    def act(self, client: int, server: psutil.Process) -> None:
        """Do it."""
        workers = training_workers(server.pid)
        if self.kind == "client-kill":
            os.kill(client, signal.SIGKILL)
        elif self.kind == "client-stop":
            stop(psutil.Process(client))
        elif self.kind == "server-kill":
            for process in [*server.children(recursive=True), server]:
                process.kill()
        elif self.kind == "workers-kill":
            for process in workers:
                process.kill()
        elif self.kind == "worker-kill":
            workers[self.victim].kill()
        else:
            stop(workers[self.victim])


def stop(process: psutil.Process) -> None:
    """Stop a process for a while."""

    def go_on() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()

    process.suspend()
    threading.Timer(STOPPED_S, go_on).start()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared.make(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def expected(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hash of the weights of a run that nothing happens to, in a store that no other run finds them in."""
    return prepared.copy(tmp_path_factory.mktemp("undisturbed")).train("none", train=LONG)[0]


class Servers:
    """A Spark Connect server; another one when it was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count, self._stack = folder, 0, contextlib.ExitStack()
        self.process, self.url = psutil.Process(), ""

    def running(self) -> str:
        """The address of a living one."""
        if not self.url or not is_living(self.process):
            self.close()
            self._count += 1
            before = {child.pid for child in psutil.Process().children()}
            self.url = self._stack.enter_context(connect_server(self._folder / str(self._count)))
            self.process = next(child for child in psutil.Process().children() if child.pid not in before)
        return self.url

    def close(self) -> None:
        """End it."""
        self._stack.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


def kept() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["points"] if RESULTS.exists() else []


def keep(record: dict[str, Any]) -> None:
    """Add a record to the file."""
    points = sorted([*kept(), record], key=lambda point: (point["seed"], point["index"]))
    summary = {
        "counted": len(points),
        "hashes": sorted({point["weights_sha256"] for point in points}),
        "by_kind": {kind: sum(point["kind"] == kind for point in points) for kind in KINDS},
    }
    RESULTS.write_text(json.dumps({"summary": summary, "points": points}, indent=1) + "\n")


@pytest.mark.faults
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("point", [Point.draw(SEED, i) for i in range(POINTS)], ids=lambda point: f"{point.kind}-{point.index}")
def test_a_training_over_connect_ends_as_in_plain_processes(
    prepared: Prepared, expected: str, servers: Servers, tmp_path: Path, point: Point
) -> None:
    if any((found["seed"], found["index"]) == (point.seed, point.index) for found in kept()):
        pytest.skip("counted before")
    started, own = time.monotonic(), prepared.copy(tmp_path)
    failed: list[str] = []
    settings = own.settings(servers.running(), train=point.train)
    with SparkProgram(settings) as program:

        def act() -> None:
            assert program.pid is not None
            point.act(program.pid, servers.process)

        try:
            run_until(program, own, point.step, act, timeout_s=ENDED_WITHIN_S)
        except (SparkError, TrainingError) as exc:
            failed.append(str(exc))
    assert not any("did not end within" in one for one in failed), failed
    while failed:
        assert len(failed) <= TRIES, failed
        try:
            with SparkProgram(own.settings(servers.running(), train=point.train)) as program:
                program.run(own.job, timeout_s=600)
            break
        except (SparkError, TrainingError) as exc:
            failed.append(str(exc))
    store = ArtifactStore.open(settings.storage)
    version = store.newest("trained", "case")
    assert version is not None
    facts = TrainedFacts.of(store.manifest(version))
    assert facts.weights_sha256 == expected
    assert failed or facts.restarts > 0, "the fault was not felt"
    assert verify_version(store, version).damages == ()
    assert wait_for(lambda: not training_workers(servers.process.pid), STOPPED_S)
    assert list(left_in_stores([tmp_path / "store"], ["case"])) == []
    keep(
        {
            **asdict(point),
            "ended": "same command again" if failed else "by itself",
            "failed_commands": failed,
            "restarts": facts.restarts,
            "weights_sha256": facts.weights_sha256,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


def test_every_kept_record_is_of_the_point_that_its_seed_draws() -> None:
    for record in kept():
        point = asdict(Point.draw(record["seed"], record["index"]))
        assert {name: record[name] for name in point} == point
