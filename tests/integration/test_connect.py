"""A real Spark Connect server, and a client that has no JVM: workers meet in rank 0's process, whose client they never see."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from connect_server import connect_server
from connect_training import LONG, Prepared, run_until, training_workers
from trained_models import make_settings
from waiting import wait_for

from flows.cli.commands.doctor import differences
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.errors import SettingsError, SparkError
from ts4s_core.processes import is_living
from ts4s_core.settings import load_settings
from ts4s_core.spark.driver.client import SparkProgram
from ts4s_core.training.facts import TrainedFacts

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared.make(tmp_path_factory.mktemp("connect"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(tmp_path_factory.mktemp("server")) as address:
        yield address


def test_training_over_connect_gives_the_weights_of_plain_processes(prepared: Prepared, url: str) -> None:
    expected, _steps = prepared.train("none")
    found, steps = prepared.train(url)
    assert (found, steps[-1]) == (expected, 3)
    store = Path(prepared.plain.storage.uri)
    assert [path for path in store.rglob("*") if ".ts4s-tmp-" in path.name] == []


def test_the_clusters_hosts_are_told(prepared: Prepared, url: str) -> None:
    with SparkProgram(prepared.settings(url)) as program:
        found = program.run({"job": "hosts"}, timeout_s=300)
    here = found["here"]
    assert (found["slots"], found["hosts"]) == (2, [here])
    assert found["spark"] == here["pyspark"]
    assert {finding.status for finding in differences(found)} == {"ok"}


def test_a_server_that_is_not_there_is_told_at_once(prepared: Prepared) -> None:
    refusal = r"Spark Connect server sc://127\.0\.0\.1:1 cannot be reached: .*refused"
    with SparkProgram(prepared.settings("sc://127.0.0.1:1")) as program, pytest.raises(SparkError, match=refusal):
        program.run({"job": "echo", "items": ["a"]}, timeout_s=300)


def test_what_the_servers_application_has_already_is_refused_by_name(prepared: Prepared, url: str) -> None:
    settings = prepared.settings(url, conf="spark.executor.memory=2g")
    with (
        SparkProgram(settings) as program,
        pytest.raises(SettingsError, match=r"spark\.executor\.memory .*cannot be set by a cl"),
    ):
        program.run({"job": "echo", "items": ["a"]}, timeout_s=300)


@pytest.mark.long
def test_without_its_client_a_training_ends_and_the_same_command_goes_on(prepared: Prepared, url: str) -> None:
    settings = prepared.settings(url, train=LONG)
    workers: list[psutil.Process] = []

    with SparkProgram(settings) as program:

        def kill() -> None:
            workers.extend(training_workers(os.getpid()))
            assert program.pid is not None
            os.kill(program.pid, signal.SIGKILL)

        with pytest.raises(SparkError, match="was killed by SIGKILL"):
            run_until(program, prepared, 100, kill)
    assert len(workers) == 2
    assert wait_for(lambda: not any(is_living(worker) for worker in workers), 3 * LONG["timeout_s"])
    steps: list[int] = []
    with SparkProgram(settings) as program:
        done = program.run(prepared.job, progress=lambda _stage, fields: steps.append(int(fields.get("step", 0))), timeout_s=600)
    assert steps[0] > LONG["checkpoint_every_steps"]
    assert done["facts"]["weights_sha256"] == prepared.train("none", train=LONG)[0]


@pytest.mark.long
def test_a_worker_that_is_killed_is_replaced(prepared: Prepared, url: str) -> None:
    settings = load_settings({**prepared.settings(url, train=LONG).plain(), "reuse": False})
    with SparkProgram(settings) as program:
        run_until(program, prepared, 100, lambda: training_workers(os.getpid())[0].kill())
    store = ArtifactStore.open(settings.storage)
    facts = TrainedFacts.of(store.manifest(store.newest("trained", "case")))
    assert facts.restarts == 1
    assert facts.weights_sha256 == prepared.train("none", train=LONG)[0]


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0, reason="a mount that the server alone sees needs root")
def test_a_store_that_tasks_do_not_see_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    plain = make_settings(tmp_path, name="case")
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    store = tmp_path / "there" / "store"
    given = {**plain.plain(), "storage": {"uri": str(store), "cache_dir": str(tmp_path / "cache")}}
    with connect_server(tmp_path / "server", within=hidden) as url:
        settings = load_settings({**given, "spark": {"master": url}})
        with SparkProgram(settings) as program, pytest.raises(SettingsError) as caught:
            program.run({"job": "scan"}, timeout_s=600)
    assert f"storage.uri {store} is not the same store for the tasks of " in str(caught.value)
    assert "No such file" in str(caught.value)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.long
def test_classic_sessions_have_the_same_weights_wherever_workers_meet(prepared: Prepared) -> None:
    assert len({prepared.train(*given)[0] for given in (("none",), ("local[2]",))}) == 1
    assert prepared.train("local[2]", control="worker")[0] == prepared.train("none")[0]
