from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import supervisor
from supervisor import supervised
from waiting import wait_for

from ts4s_core.processes import has_died, is_living, kill_tree

SLEEP = "import time; time.sleep(60)"
# Starts a child (in the same session) and a grandchild whose own parent ends at once, and says their numbers.
FAMILY = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}], stdout=subprocess.DEVNULL).pid)"
orphan = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip()
print(child.pid, orphan, flush=True)
time.sleep(60)
"""


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_living(psutil.Process(pid))


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        kill_tree(process.pid)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def start(started: list[subprocess.Popen[str]], command: list[str], **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
    started.append(process)
    return process


def numbers(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(number) for number in process.stdout.readline().split()]


def test_kill_tree_ends_children_and_orphans(started: list[subprocess.Popen[str]]) -> None:
    process = start(started, [sys.executable, "-c", FAMILY])
    family = numbers(process)
    assert len(family) == 2
    assert all(lives(pid) for pid in family)
    assert kill_tree(process.pid) == []
    assert has_died(process.pid)
    assert not any(lives(pid) for pid in family)


def test_kill_tree_finds_the_rest_of_a_dead_leaders_session(started: list[subprocess.Popen[str]]) -> None:
    process = start(started, [sys.executable, "-c", FAMILY])
    family = numbers(process)
    process.kill()
    assert wait_for(lambda: has_died(process.pid))
    assert all(lives(pid) for pid in family)
    assert kill_tree(process.pid) == []
    assert not any(lives(pid) for pid in family)


def test_kill_tree_ends_a_stopped_process(started: list[subprocess.Popen[str]]) -> None:
    process = start(started, [sys.executable, "-c", SLEEP])
    os.kill(process.pid, signal.SIGSTOP)
    assert kill_tree(process.pid) == []
    assert process.wait() == -signal.SIGKILL


def test_a_supervised_program_gives_its_code_back() -> None:
    assert subprocess.run(supervised([sys.executable, "-c", "raise SystemExit(7)"]), check=False).returncode == 7


def test_a_program_that_cannot_be_started_is_one_line() -> None:
    done = subprocess.run(supervised(["/nonexistent/program"]), check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: /nonexistent/program cannot be started: ")
    assert done.stderr.count("\n") == 1


def test_a_supervised_program_ends_when_its_parent_is_killed(started: list[subprocess.Popen[str]]) -> None:
    code = f"""
import subprocess, sys, time
sys.path.insert(0, {str(Path(supervisor.__file__).parent)!r})
from supervisor import supervised
subprocess.Popen(supervised([sys.executable, "-c", {FAMILY!r}]))
time.sleep(60)
"""
    parent = start(started, [sys.executable, "-c", code])
    family = numbers(parent)
    parent.kill()
    assert wait_for(lambda: not any(lives(pid) for pid in family))


def test_sigterm_of_the_supervisor_ends_its_program(started: list[subprocess.Popen[str]]) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True); time.sleep(60)"
    mild = FAMILY
    process = start(started, supervised([sys.executable, "-c", mild]))
    family = numbers(process)
    process.terminate()
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert not any(lives(pid) for pid in family)
    process = start(started, supervised([sys.executable, "-c", deaf]))
    numbers(process)
    process.terminate()
    assert process.wait(timeout=15) == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    "busy", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"], ids=["python", "native code with the lock held"]
)
def test_die_with_parent(started: list[subprocess.Popen[str]], tmp_path: Path, busy: str) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import ctypes, os, sys, time\nfrom ts4s_core.processes import die_with_parent\n"
        f"die_with_parent(int(sys.argv[1]))\nprint(os.getpid(), flush=True)\n{busy}\n"
    )
    code = "import os, subprocess, sys\nsubprocess.run([sys.executable, sys.argv[1], str(os.getpid())])"
    parent = start(started, [sys.executable, "-c", code, str(child)])
    (pid,) = numbers(parent)
    parent.kill()
    assert wait_for(lambda: not lives(pid), limit_s=5)


def test_a_parent_that_is_dead_already_is_noticed() -> None:
    code = "from ts4s_core.processes import die_with_parent; die_with_parent(1); raise SystemExit(0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
