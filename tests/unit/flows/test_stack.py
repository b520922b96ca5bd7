"""The stack's book of processes: who is alive, who is found by the mark, who is ended. Real processes, no servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.stack import up_and_down as stack
from flows.stack.services import Keys, StackPlan, free_port
from flows.stack.state import MARK, Service, StackError, StackState, is_alive, locked, processes_of, read_state
from ts4s_core.errors import SettingsError
from ts4s_core.spark.session.standalone import has_registered, master_url, web_address

SLEEP = "import time; time.sleep(300)"
#: Starts another process in a session of its own and ends: that one is nobody's child then.
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"


@pytest.fixture
def start() -> Iterator[Callable[[str, str], subprocess.Popen[bytes]]]:
    """Starts Python programs with a mark."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(program: str, mark: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, MARK: mark}
        started.append(subprocess.Popen([sys.executable, "-c", program], env=environ, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def service(name: str, pid: int) -> Service:
    return Service(name, pid, 0.0, "log")


def test_down_finds_what_a_crashed_part_left(tmp_path: Path, start: Callable[[str, str], subprocess.Popen[bytes]]) -> None:
    state = StackState()
    lives, dies, parent = (start(program, state.mark) for program in (SLEEP, SLEEP, ORPHAN))
    assert parent.wait(30) == 0
    dies.kill()
    dies.wait()
    state.services = [service("spark-master", lives.pid), service("prefect-worker", dies.pid)]
    state.write(tmp_path)
    assert len(processes_of(state.mark)) == 2
    found = stack.status(tmp_path)
    assert (found["status"], [one["alive"] for one in found["services"].values()]) == ("partly up", [True, False])
    assert stack.down(tmp_path) == {"status": "down", "folder": str(tmp_path), "ended": ["spark-master"]}
    assert processes_of(state.mark) == []
    assert stack.status(tmp_path)["status"] == "down"
    assert stack.down(tmp_path)["ended"] == []


def test_a_number_given_to_another_program_is_not_ours(
    tmp_path: Path, start: Callable[[str, str], subprocess.Popen[bytes]]
) -> None:
    state, other = StackState(), start(SLEEP, "another stack")
    state.services = [service("s3-server", other.pid)]
    state.write(tmp_path)
    assert not is_alive(state.services[0], state.mark)
    stack.down(tmp_path)
    time.sleep(0.2)
    assert psutil.Process(other.pid).is_running()


def test_nothing_there_is_nothing_to_end(tmp_path: Path) -> None:
    assert stack.status(tmp_path / "none") == {"status": "down", "folder": str(tmp_path / "none"), "services": {}}
    assert stack.down(tmp_path / "none")["ended"] == []
    assert not (tmp_path / "none").exists()


def test_one_command_at_a_time_and_a_damaged_state_is_named(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StackError, match="another ts4s stack command"):
        stack.down(tmp_path)
    (tmp_path / "state.json").write_text('{"mark": 1', encoding="utf-8")
    with pytest.raises(StackError, match="cannot be read"):
        read_state(tmp_path)


def test_processes_get_what_they_need_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the user's own")
    monkeypatch.setenv("SPARK_CONF_DIR", "/somewhere")
    keys = Keys.new()
    plan = StackPlan(tmp_path, "a-mark", keys, prefect_port=1, s3_port=2, cores=1, memory="1g", pool="ts4s")
    daemons = {
        "server": plan.prefect_server(),
        "worker": plan.prefect_worker(),
        "s3": plan.s3_server(),
        "master": plan.spark_master(),
        "spark": plan.spark_worker(1, master="spark://127.0.0.1:7077"),
    }
    for name, daemon in daemons.items():
        environ = daemon.environment
        assert environ[MARK] == "a-mark"
        assert {"AWS_SECRET_ACCESS_KEY", "SPARK_CONF_DIR"}.isdisjoint(environ)
        for secret, knows in (
            (keys.secret, ("worker", "s3")),
            (keys.login, ("server", "worker")),
            (keys.spark, ("worker", "master", "spark")),
        ):
            assert secret not in " ".join(daemon.command)
            assert any(secret in value for value in environ.values()) == (name in knows)
        options = environ.get("SPARK_DAEMON_JAVA_OPTS", "")
        assert ("-Dspark.authenticate=true" in options) == (name in ("master", "spark"))
        assert ("-Dspark.master.rest.enabled=false" in options) == (name in ("master", "spark"))
    assert len({daemon.environment["TMPDIR"] for daemon in daemons.values()}) == 5
    assert daemons["server"].environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_ports_are_kept_where_they_are_free() -> None:
    port = free_port(None)
    assert free_port(port) == port
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]


def test_what_spark_says_when_it_is_ready() -> None:
    log = (
        "08:54:31 INFO Master: Starting Spark master at spark://127.0.0.1:38849\n"
        "08:54:32 INFO Utils: Successfully started service 'MasterUI' on port 45169.\n"
    )
    assert master_url(log) == "spark://127.0.0.1:38849"
    assert web_address(log) == "http://127.0.0.1:45169"
    assert not has_registered(log)
    assert has_registered("08:54:40 INFO Worker: Successfully registered with master spark://127.0.0.1:38849")


def test_no_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--cores 0"):
        stack.StackOptions(tmp_path, cores=0, memory="1g")
